# All images of the lakehouse, built by one `docker buildx bake` that the role `images` runs on the build host:
# it makes the root file system (context `rootfs`), writes the package sources and adds each target's tag.
#
# plugins/lookup/image_tags.py reads this file to compute the tags: an image's inputs are its target's text, the variables
# named there, the local folders among its contexts and the tags of its `target:` contexts. Keep one key a line.

variable "TAG" {
  default = "dev"
}

# The build host's package sources as a tar, its CA bundle, and the folder of its extra CA certificates.
variable "SOURCES" {
  default = "/var/lib/lakehouse/images/sources.tar"
}

variable "CA_BUNDLE" {
  default = "/etc/ssl/certs/ca-certificates.crt"
}

variable "CAS" {
  default = "/var/lib/lakehouse/images/cas"
}

variable "ROOTFS" {
  default = "docker-image://lakehouse/rootfs:bookworm"
}

# What a site adds to the notebooks: requirements, one a line.
variable "NOTEBOOK_PACKAGES" {
  default = ""
}

# The users of the services. playbooks/group_vars/all/uids.yml is the list; the role passes it on.
variable "UID_MINIO" {}
variable "UID_POSTGRES" {}
variable "UID_CATALOG" {}
variable "UID_EDGE" {}
variable "UID_SPARK" {}
variable "UID_MLFLOW" {}
variable "UID_MOODLE_DB" {}

group "default" {
  targets = ["minio", "spark", "jobs", "notebooks", "catalog", "mlflow", "postgres", "moodle-db", "edge"]
}

target "_image" {
  dockerfile = "Dockerfile"
  secret     = ["id=sources,src=${SOURCES}"]
}

# Go's compiler works longest, so nothing but base stands before it.
target "minio" {
  inherits = ["_image"]
  context  = "minio"
  contexts = { base = "target:base" }
  args     = { UID = UID_MINIO, VERSION = MINIO_VERSION, SUM = MINIO_SUM, GO_VERSION = GO_VERSION, GO_SUITE = GO_SUITE }
  tags     = ["lakehouse/minio:${TAG}"]
}

target "base" {
  inherits = ["_image"]
  context  = "base"
  contexts = { rootfs = ROOTFS, cas = CAS }
  args     = { REFRESH = REFRESH }
  secret   = ["id=sources,src=${SOURCES}", "id=ca_bundle,src=${CA_BUNDLE}"]
  tags     = ["lakehouse/base:${TAG}"]
}

target "python" {
  inherits = ["_image"]
  context  = "python"
  contexts = { base = "target:base" }
  target   = "python"
  tags     = ["lakehouse/python:${TAG}"]
}

target "uv" {
  inherits = ["_image"]
  context  = "python"
  contexts = { base = "target:base" }
  target   = "uv"
}

target "jre" {
  inherits = ["_image"]
  context  = "jre"
  contexts = { python = "target:python" }
  target   = "jre"
  tags     = ["lakehouse/jre:${TAG}"]
}

target "ivy" {
  inherits = ["_image"]
  context  = "jre"
  contexts = { python = "target:python" }
  target   = "ivy"
}

target "spark" {
  inherits = ["_image"]
  context  = "spark"
  contexts = { jre = "target:jre", uv = "target:uv", ivy = "target:ivy" }
  args     = { UID = UID_SPARK }
  target   = "spark"
  tags     = ["lakehouse/spark:${TAG}"]
}

target "jobs" {
  inherits   = ["_image"]
  context    = "jobs"
  contexts   = { spark = "target:spark", uv = "target:uv", package = "../jobs" }
  target     = "jobs"
  tags       = ["lakehouse/jobs:${TAG}"]
}

# The jobs with their tests' packages; the tests themselves are mounted. Not part of the default group.
target "jobs-test" {
  inherits   = ["_image"]
  context    = "jobs"
  contexts   = { spark = "target:spark", uv = "target:uv", package = "../jobs" }
  target     = "jobs-test"
  tags       = ["lakehouse/jobs-test:${TAG}"]
}

target "notebooks" {
  inherits = ["_image"]
  context  = "notebooks"
  contexts = { jobs = "target:jobs", uv = "target:uv", package = "../jobs" }
  args     = { PACKAGES = NOTEBOOK_PACKAGES }
  tags     = ["lakehouse/notebooks:${TAG}"]
}

target "catalog" {
  inherits = ["_image"]
  context  = "catalog"
  contexts = { jre = "target:jre", ivy = "target:ivy" }
  args     = { UID = UID_CATALOG }
  tags     = ["lakehouse/catalog:${TAG}"]
}

target "mlflow" {
  inherits = ["_image"]
  context  = "mlflow"
  contexts = { python = "target:python", uv = "target:uv" }
  args     = { UID = UID_MLFLOW }
  tags     = ["lakehouse/mlflow:${TAG}"]
}

target "postgres" {
  inherits = ["_image"]
  context  = "postgres"
  contexts = { base = "target:base" }
  args     = { UID = UID_POSTGRES }
  tags     = ["lakehouse/postgres:${TAG}"]
}

target "moodle-db" {
  inherits = ["_image"]
  context  = "moodle-db"
  contexts = { base = "target:base" }
  args     = { UID = UID_MOODLE_DB }
  tags     = ["lakehouse/moodle-db:${TAG}"]
}

target "edge" {
  inherits = ["_image"]
  context  = "edge"
  contexts = { base = "target:base" }
  args     = { UID = UID_EDGE }
  tags     = ["lakehouse/edge:${TAG}"]
}
