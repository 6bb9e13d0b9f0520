"""`python -m secateur`."""

from secateur_command import main

main()
