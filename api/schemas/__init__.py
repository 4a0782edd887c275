"""Request and response bodies, the OpenAPI document and the page of the API."""
