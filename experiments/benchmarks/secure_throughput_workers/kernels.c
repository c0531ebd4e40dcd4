/* What machine_worker.py times, compiled when it starts. */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t lanes __attribute__((vector_size(64)));
enum { CHAINS = 8, LANES = 16 };

/* Additions and exclusive ors that depend on each other in CHAINS independent chains,
   2 * CHAINS * LANES of them per step. */
uint32_t integer_operations(uint64_t steps, uint32_t seed) {
  lanes x[CHAINS], y[CHAINS];
  for (int i = 0; i < CHAINS; i++)
    for (int j = 0; j < LANES; j++) {
      x[i][j] = seed + i * LANES + j;
      y[i][j] = ~x[i][j];
    }
  while (steps--)
#pragma GCC unroll 8
    for (int i = 0; i < CHAINS; i++) {
      x[i] += y[i];
      y[i] ^= x[i];
    }
  uint32_t digest = 0;
  for (int i = 0; i < CHAINS; i++)
    for (int j = 0; j < LANES; j++) digest ^= x[i][j] ^ y[i][j];
  return digest;
}

static const int ROTATIONS[8] = {13, 15, 26, 6, 17, 29, 16, 24};

/* Adds masks to a vector of 2 * blocks words, one mask for each key of two words.
   Threefry2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers:
   as easy as 1, 2, 3", SC 2011). Block i enciphers the counter (first + i, second);
   its words go to places i and blocks + i. */
void add_masks(uint32_t *restrict total, size_t blocks, const uint32_t *keys,
               size_t masks, uint32_t first, uint32_t second) {
  for (size_t mask = 0; mask < masks; mask++) {
    const uint32_t k0 = keys[2 * mask], k1 = keys[2 * mask + 1];
    const uint32_t key[3] = {k0, k1, 0x1BD11BDA ^ k0 ^ k1};
    for (size_t i = 0; i < blocks; i++) {
      uint32_t x0 = first + (uint32_t)i + key[0], x1 = second + key[1];
#pragma GCC unroll 20
      for (int round = 0; round < 20; round++) {
        const int by = ROTATIONS[round % 8], next = round / 4 + 1;
        x0 += x1;
        x1 = (x1 << by | x1 >> (32 - by)) ^ x0;
        if (round % 4 == 3) {
          x0 += key[next % 3];
          x1 += key[(next + 1) % 3] + next;
        }
      }
      total[i] += x0;
      total[blocks + i] += x1;
    }
  }
}
