"""What the upper floors may ask of the world: small Protocols, each real in effects/ and faked in tests/fakes/."""
