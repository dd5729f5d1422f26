"""`mcn doctor`: whether this machine and a shared folder have all that the stages rely on."""
