"""3-D face model fitting: shape models, camera, and the Gauss-Newton solver behind the face3d extractor."""
