"""What `epigraf doctor` looks at: the installation, the machine, and every op on every engine."""
