"""What the upper floors may ask of the world: small Protocols, each with a real side in effects/ and a fake in tests/."""
