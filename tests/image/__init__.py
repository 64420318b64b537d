"""The image and docker/compose.yaml, tested without a container engine or an image registry: `make image-test`.

1. `base`: debootstrap makes a Debian base file system (kept in the user's cache directory between runs), buildah
   builds the image on it, and one for PostgreSQL.
2. `composition` reads compose.yaml; `container` runs each of its services as a container: namespaces of its own for
   network, processes and mounts, the image's file system read-only, the user, variables and commands of the file.
3. `engine` knows the verbs of `docker compose` that docker/README.md uses.
4. `walk` runs the commands of docker/README.md, line by line, and what the page promises besides.

It takes root, and Debian or Ubuntu.
"""
