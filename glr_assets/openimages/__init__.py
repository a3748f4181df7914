"""Open Images as a source of labelled crops: its boxes, its images, and the classifier dataset made of them."""
