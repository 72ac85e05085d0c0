# The versions that are not locked elsewhere. Python packages: requirements.in and .txt beside each Dockerfile (./lock).
# Jars: jars.txt beside each Dockerfile, with their checksums. Debian packages: those of the suite, security updates included.

# renovate: datasource=go packageName=github.com/minio/minio
variable "MINIO_VERSION" {
  default = "v0.0.0-20260212201848-7aac2a2c5b7c"
}

# Go's own checksum (h1) of that module version; its go.sum then vouches for everything it is made of.
variable "MINIO_SUM" {
  default = "h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA="
}

# Debian's Go, and the suite that has it.
variable "GO_VERSION" {
  default = "1.24"
}

variable "GO_SUITE" {
  default = "trixie"
}

# A new value (a date, say) makes new tags for every image and so builds them again with today's security updates.
variable "REFRESH" {
  default = ""
}
