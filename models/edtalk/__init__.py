"""EDTalk: talking heads whose mouth, head pose and expression are driven apart (Tan et al., ECCV 2024)."""
