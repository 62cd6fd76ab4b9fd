"""`tilegrad doctor`: what is installed and found, and how to get what is missing."""

from __future__ import annotations

import click


@click.command("doctor", short_help="Check what is installed and how to get the rest.")
def command() -> None:
    """Check compilers, packages and the build cache; exits with 1 if something that is required is missing."""
    from tilegrad.targets import doctor

    checks = doctor()
    for check in checks:
        state = "ok     " if check.found else "MISSING" if check.required else "absent "
        name = f"{check.name} {check.version}".strip()
        click.echo(f"{state}  {name}: {check.detail}")
        if check.remedy and check.remedy not in check.detail:
            click.echo(f"         to get it: {check.remedy}")
    missing = [check.name for check in checks if check.required and not check.found]
    if missing:
        click.echo(f"required and missing: {', '.join(missing)}")
        raise click.exceptions.Exit(1)
    click.echo("everything that is required is there")
