"""What routes do once a request is read: adaptation, scoring, exploration, events."""
