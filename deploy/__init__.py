"""How the system is run: locally by ``deploy.local``, in containers by the Dockerfile and compose.yaml beside it."""
