"""What keeps the windows alive: processes, ports, deployments, device slots."""
