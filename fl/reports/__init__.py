"""What a finished run is examined, taken apart and described with."""
