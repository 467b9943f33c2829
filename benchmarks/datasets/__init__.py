"""What networks are trained, calibrated and tested on: images from files, made-up voxels."""
