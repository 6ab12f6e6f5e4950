"""What a disk must hold, as pure values: no file, device, clock or network is touched here."""
