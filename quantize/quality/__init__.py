"""How much of a checkpoint's quality its artifact keeps."""
