"""DECORATE lumps of the arena: actors, weapons and bots.

Every weapon shares one alternate fire (a slow ball of light) and one reload action (a lamp placed for some seconds), so
that both bumpers have a visible effect at any time.
"""

from __future__ import annotations

_PLAYER = """
ACTOR LoomPlayer : DoomPlayer
{
  Player.DisplayName "Loom"
  DamageFactor 0.35
  Player.WeaponSlot 1, LoomPistol
  Player.WeaponSlot 2, LoomShotgun
  Player.WeaponSlot 3, LoomChaingun
  Player.WeaponSlot 4, LoomRocketLauncher
  Player.WeaponSlot 5, LoomPlasmaRifle
  Player.StartItem "LoomPlasmaRifle"
  Player.StartItem "LoomShotgun"
  Player.StartItem "LoomChaingun"
  Player.StartItem "LoomRocketLauncher"
  Player.StartItem "LoomPistol"
  Player.StartItem "Clip", 200
  Player.StartItem "Shell", 50
  Player.StartItem "RocketAmmo", 30
  Player.StartItem "Cell", 300
}
ACTOR LoomBot : DoomPlayer
{
  Player.DisplayName "Bot"
  DamageFactor 0.9
  Player.StartItem "Pistol"
  Player.StartItem "Shotgun"
  Player.StartItem "PlasmaRifle"
  Player.StartItem "Clip", 200
  Player.StartItem "Shell", 50
  Player.StartItem "Cell", 300
}
ACTOR LoomBall
{
  Radius 8 Height 12 Speed 12 Damage 5 Scale 1.4
  Projectile
  RenderStyle Add
  States
  {
  Spawn:
    BAL1 AB 5 Bright
    Loop
  Death:
    BAL1 CDE 5 Bright
    Stop
  }
}
ACTOR LoomLamp
{
  Radius 8 Height 40 +NOBLOCKMAP +NOTELEPORT
  States
  {
  Spawn:
    COLU A 140 Bright
    Stop
  }
}
ACTOR NoTeleportFog : TeleportFog replaces TeleportFog
{
  States
  {
  Spawn:
    TNT1 A 1
    Stop
  }
}
ACTOR NoItemFog : ItemFog replaces ItemFog
{
  States
  {
  Spawn:
    TNT1 A 1
    Stop
  }
}
ACTOR NoBlood : Blood replaces Blood
{
  States
  {
  Spawn:
    TNT1 A 1
    Stop
  }
}
ACTOR GhostColumn : HeartColumn { -SOLID }
"""

_WEAPON = """
ACTOR Loom{base} : {base}
{{
  States
  {{
  Ready:
    {sprite} A 1 A_WeaponReady(WRF_ALLOWRELOAD)
    Loop
  AltFire:
    {sprite} A 9 A_FireCustomMissile("LoomBall", 0, 0, 26, 4)
    {sprite} A 3
    Goto Ready
  Reload:
    {sprite} A 9 A_SpawnItemEx("LoomLamp", 72, 52, 0)
    {sprite} A 9
    Goto Ready
  }}
}}
"""
_SPRITES = {
    "Pistol": "PISG", "Shotgun": "SHTG", "Chaingun": "CHGG", "RocketLauncher": "MISG", "PlasmaRifle": "PLSG",
}  # fmt: skip

ACTORS = _PLAYER + "".join(_WEAPON.format(base=base, sprite=sprite) for base, sprite in _SPRITES.items())
"""The DECORATE lump."""

_BOT = """{{
    name        {name}
    aiming      45
    perfection  30
    reaction    60
    isp         40
    color       "{colour}"
    skin        base
    class       LoomBot
}}
"""
_COLOURS = {
    "Amber": "f0 c0 20",
    "Bluebell": "30 50 f0",
    "Cherry": "e0 20 20",
    "Dove": "e8 e8 e8",
    "Ember": "f0 80 20",
    "Fig": "c0 30 c0",
    "Gull": "b0 b0 b0",
}
BOT_NAMES: tuple[str, ...] = tuple(_COLOURS)
"""The bots' names, which choose their colours."""
BOTS = "".join(_BOT.format(name=name, colour=colour) for name, colour in _COLOURS.items())
"""The engine's table of bots: calm ones that keep their distance."""

MAPINFO = """
gameinfo { PlayerClasses = "LoomPlayer", "LoomBot" }
map MAP01 "Arena" { sky1 = "PLSKY", 0.0 }
"""
"""The MAPINFO lump."""
