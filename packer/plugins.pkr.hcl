# Packer 1.7 and later fetch the plugin by `packer init`.
# Debian's 1.6.6 has it built in and refuses this block: leave the file out there.
packer {
  required_plugins {
    amazon = {
      version = ">= 1.2.8"
      source  = "github.com/hashicorp/amazon"
    }
  }
}
