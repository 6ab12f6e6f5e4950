# Bakes an AMI: Debian 12 with flashboot in it.
# Everything that happens inside is packer/install.sh; the rig's images use the same script.

variable "name" {
  type        = string
  description = "Name of the AMI, and best of the image too; names are immutable: put a build number in."
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "instance_type" {
  type    = string
  default = "t3.medium"
}

variable "root_gib" {
  type        = number
  default     = 8
  description = "Size of the root volume in GiB: also the size of the image."
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = var.instance_type
  ami_name      = var.name

  # Debian's own account for cloud images.
  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = var.root_gib
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }

  communicator = "ssh"
  ssh_username = "admin"

  tags = {
    "flashboot:image" = var.name
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/flashboot"]
  }

  # The directory without a trailing slash: its name stays.
  provisioner "file" {
    sources     = ["${path.root}/../flashboot", "${path.root}/../happycache", "${path.root}/../packer"]
    destination = "/tmp/flashboot/"
  }

  provisioner "file" {
    sources     = ["${path.root}/../setup.cfg", "${path.root}/../pyproject.toml", "${path.root}/../README.md", "${path.root}/../LICENSE"]
    destination = "/tmp/flashboot/"
  }

  provisioner "shell" {
    inline = [
      "sudo apt-get update -q",
      "sudo apt-get install -q -y --no-install-recommends kexec-tools python3-venv",
      "python3 -m venv /tmp/flashboot/venv",
      "/tmp/flashboot/venv/bin/pip install -q /tmp/flashboot",
      "sudo bash /tmp/flashboot/packer/install.sh --libs $(echo /tmp/flashboot/venv/lib/python3.*/site-packages)",
      "rm -rf /tmp/flashboot",
    ]
  }

  # The manifest names the AMI. Publishing it is a step of its own (README.md beside this file).
  post-processor "manifest" {
    output     = "${var.name}.manifest.json"
    strip_path = true
  }
}
