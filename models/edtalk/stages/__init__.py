"""The stages in which EDTalk is trained, one module each."""
