"""What captions say to each other: words, likeness, hard negatives, and which captions an image is compared with."""
