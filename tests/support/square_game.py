"""Small real game in a window: the keys w, a, s and d move a red square on blue."""

import sys

import pygame

SPEED = 120  # pixels per second


def main(title: str) -> None:
    pygame.display.init()
    screen = pygame.display.set_mode((320, 240))
    pygame.display.set_caption(title)
    clock, x, y, elapsed = pygame.time.Clock(), 160.0, 120.0, 0.0
    while not any(event.type == pygame.QUIT for event in pygame.event.get()):
        keys = pygame.key.get_pressed()
        x += SPEED * elapsed * (keys[pygame.K_d] - keys[pygame.K_a])
        y += SPEED * elapsed * (keys[pygame.K_s] - keys[pygame.K_w])
        screen.fill((0, 0, 160))
        pygame.draw.rect(screen, (220, 0, 0), (x - 15, y - 15, 30, 30))
        pygame.display.flip()
        elapsed = clock.tick(60) / 1000


if __name__ == "__main__":
    main(sys.argv[1])
