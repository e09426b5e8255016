"""The console command `dt`: each subcommand imports only what it needs."""
