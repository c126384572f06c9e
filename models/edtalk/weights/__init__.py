"""EDTalk's checkpoints: finding, importing and checking them."""
