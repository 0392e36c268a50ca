/* The draws of `kernels.py`, which says what they are and how they are checked. No memory is allocated here, nothing is
 * kept between calls, and every function writes to its arguments only. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__SIZEOF_INT128__) || (defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
#error "expected a compiler with 128-bit integers, on a machine that is little-endian"
#endif

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_MACHINE
#endif

#define EXPORTED __attribute__((visibility("default")))
#define PART 2048      /* coordinates at a time: what is between two steps of their way stays in the first cache */
#define TOP_BITS 16
#define LOW_BITS 47
#define ROUNDS 10

typedef unsigned __int128 wide;

/* Which source this was compiled from: a library that another source made is not used. */
EXPORTED const char *certify_source(void) { return SOURCE; }

/* ---- Philox 4x64-10 (Salmon et al. 2011), in the order of numpy: counter 1 gives words 0..3 ---- */

typedef struct {
    uint64_t first[ROUNDS], second[ROUNDS];
} round_keys;

static void expand(round_keys *keys, const uint64_t key[2]) {
    for (int r = 0; r < ROUNDS; r++) {
        keys->first[r] = key[0] + (uint64_t)r * 0x9E3779B97F4A7C15u;
        keys->second[r] = key[1] + (uint64_t)r * 0xBB67AE8584CAA73Bu;
    }
}

#define ROUND(c, r)                                                                                                    \
    do {                                                                                                               \
        wide one = (wide)0xD2E7470EE14C6C93u * (c)[0], two = (wide)0xCA5A826395121157u * (c)[2];                       \
        (c)[0] = (uint64_t)(two >> 64) ^ (c)[1] ^ keys->first[r];                                                      \
        (c)[1] = (uint64_t)two;                                                                                        \
        (c)[2] = (uint64_t)(one >> 64) ^ (c)[3] ^ keys->second[r];                                                     \
        (c)[3] = (uint64_t)one;                                                                                        \
    } while (0)

/* Eight words, of two counters side by side: one alone waits for its own products. */
static inline __attribute__((always_inline)) void eight_words(const round_keys *keys, uint64_t eight, uint64_t *words) {
    uint64_t a[4] = {2 * eight + 1, 0, 0, 0}, b[4] = {2 * eight + 2, 0, 0, 0};
#pragma GCC unroll 10
    for (int r = 0; r < ROUNDS; r++) {
        ROUND(a, r);
        ROUND(b, r);
    }
    memcpy(words, a, sizeof a);
    memcpy(words + 4, b, sizeof b);
}

/* ---- Integer noise by a table of two levels; see two_level_table.py ---- */

typedef struct {
    const int64_t *thresholds; /* T, ascending */
    int64_t levels;            /* how many */
    const int16_t *table;      /* Z by the top 16 bits, or open_mark */
    const int32_t *below;      /* #{k : T_k <= top << 47} by the top 16 bits */
    int64_t open_mark;
} two_levels;

/* inputs[i] = (pixels[i mod dimension] + Z_i) / 255 in float32, for count coordinates; the first `marks` raw words are
 * kept. */
EXPORTED FOR_EACH_MACHINE void certify_integer_inputs(const uint64_t key[2], const two_levels *law,
                                                      const int16_t *pixels, uint64_t dimension, uint64_t count,
                                                      float *inputs, uint64_t *first, uint64_t marks) {
    round_keys keys;
    uint64_t low_words[8], low = (count + 3) / 4, low_eight = UINT64_MAX, column = 0;
    int16_t noise[PART];
    uint16_t top[PART], open[PART];
    const int64_t half = law->levels / 2;
    const int16_t *const table = law->table, open_mark = (int16_t)law->open_mark;
    expand(&keys, key);
    for (uint64_t i = 0; i < marks; i += 8) {
        eight_words(&keys, i / 8, low_words);
        memcpy(first + i, low_words, (marks - i < 8 ? marks - i : 8) * sizeof *first);
    }
    for (uint64_t start = 0; start < count; start += PART) {
        const uint64_t size = count - start < PART ? count - start : PART;
        const uint64_t filled = (size + 31) / 32 * 32;
        uint64_t opened = 0;
        for (uint64_t i = 0; i < filled; i += 32) {
            uint64_t words[8];
            eight_words(&keys, (start + i) / 32, words);
            memcpy(top + i, words, sizeof words);
#pragma GCC unroll 8
            for (unsigned w = 0; w < 8; w++)
#pragma GCC unroll 4
                for (unsigned part = 0; part < 4; part++)
                    noise[i + 4 * w + part] = table[(words[w] >> (TOP_BITS * part)) & 0xFFFF];
        }
        for (uint64_t i = 0; i < filled; i += 32) {
            uint32_t marks = 0;
            for (unsigned j = 0; j < 32; j++) marks |= (uint32_t)(noise[i + j] == open_mark) << j;
            for (; marks; marks &= marks - 1) open[opened++] = (uint16_t)(i + (uint64_t)__builtin_ctz(marks));
        }
        for (uint64_t o = 0; o < opened && open[o] < size; o++) {
            const uint64_t i = open[o];
            if (low / 8 != low_eight) eight_words(&keys, low_eight = low / 8, low_words);
            const int64_t u = (int64_t)((uint64_t)top[i] << LOW_BITS | low_words[low % 8] >> (64 - LOW_BITS));
            int64_t found = law->below[top[i]];
            while (found < law->levels && law->thresholds[found] <= u) found++;
            noise[i] = (int16_t)(found - half);
            low++;
        }
        for (uint64_t i = 0; i < size;) {
            const uint64_t row = dimension - column < size - i ? dimension - column : size - i;
            for (uint64_t j = 0; j < row; j++)
                inputs[start + i + j] = (float)(noise[i + j] + pixels[column + j]) / 255.0f;
            i += row;
            column = (column + row) % dimension;
        }
    }
}

/* ---- Normal noise: numpy's ziggurat, its common case here, the rare ones by numpy's own function ---- */

/* numpy's interface of bit generators (numpy/random/bitgen.h). */
typedef struct {
    void *state;
    uint64_t (*next_uint64)(void *);
    uint32_t (*next_uint32)(void *);
    double (*next_double)(void *);
    uint64_t (*next_raw)(void *);
} bit_generator;

typedef double (*normal_function)(bit_generator *);

#define WORDS 256 /* drawn at a time */

typedef struct {
    round_keys keys;
    uint64_t words[WORDS], used, eights;
} stream;

static void refill(stream *s) {
    for (int i = 0; i < WORDS; i += 8) eight_words(&s->keys, s->eights++, s->words + i);
    s->used = 0;
}

static uint64_t next_word(void *state) {
    stream *s = state;
    if (s->used == WORDS) refill(s);
    return s->words[s->used++];
}

static uint32_t next_half(void *state) { return (uint32_t)next_word(state); } /* no normal number asks for one */

static double next_fraction(void *state) { return (double)(next_word(state) >> 11) * (1.0 / 9007199254740992.0); }

static bit_generator generator_of(stream *s) {
    bit_generator found = {s, next_word, next_half, next_fraction, next_word};
    return found;
}

/* The word that asks layer `layer` of the ziggurat for `steps` of its width. */
static uint64_t word_of(uint64_t layer, uint64_t steps) { return layer | steps << 9; }

/* The number that is made of one given word, and after it of fractions of 1/2; `taken` counts the words. */
static double answer(normal_function normal, uint64_t word, uint64_t *taken) {
    stream s = {.used = 0};
    bit_generator generator = generator_of(&s);
    for (int i = 0; i < WORDS; i++) s.words[i] = (uint64_t)1 << 63;
    s.words[0] = word;
    const double found = normal(&generator);
    *taken = s.used;
    return found;
}

/* The width of a step in each layer, and the number of steps below which a word alone decides. */
EXPORTED void certify_learn_layers(normal_function normal, double widths[256], uint64_t sure[256]) {
    for (uint64_t layer = 0; layer < 256; layer++) {
        uint64_t low = 0, high = (uint64_t)1 << 52, taken; /* words with fewer than `low` steps decide alone */
        while (low < high) {
            const uint64_t middle = low + (high - low) / 2;
            answer(normal, word_of(layer, middle), &taken);
            if (taken == 1)
                low = middle + 1;
            else
                high = middle;
        }
        sure[layer] = low;
        widths[layer] = answer(normal, word_of(layer, 1), &taken);
    }
}

/* The number with the sign of a word: no branch, since half of all words would take it. */
static inline __attribute__((always_inline)) double signed_as(uint64_t word, double size) {
    uint64_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits |= (word & 0x100) << 55;
    memcpy(&size, &bits, sizeof size);
    return size;
}

/* inputs[i] = values[i mod dimension] + scale g_i in float64, rounded to float32 unless they are to be in float64, for
 * count coordinates; the first `marks` of the g_i are kept. */
EXPORTED FOR_EACH_MACHINE void certify_normal_inputs(const uint64_t key[2], normal_function normal,
                                                     const double widths[256], const uint64_t sure[256], double scale,
                                                     const double *values, uint64_t dimension, uint64_t count,
                                                     void *inputs, int in_float64, double *first, uint64_t marks) {
    stream s = {.used = WORDS, .eights = 0};
    bit_generator generator = generator_of(&s);
    uint64_t column = 0;
    double part[PART];
    expand(&s.keys, key);
    for (uint64_t start = 0; start < count; start += PART) {
        const uint64_t size = count - start < PART ? count - start : PART;
        for (uint64_t i = 0; i < size;) {
            if (s.used == WORDS) refill(&s);
            const uint64_t *const words = s.words + s.used;
            const uint64_t most = WORDS - s.used < size - i ? WORDS - s.used : size - i;
            uint64_t j = 0;
            for (; j < most; j++) {
                const uint64_t word = words[j], layer = word & 0xFF, steps = word >> 9 & 0x000FFFFFFFFFFFFFu;
                if (steps >= sure[layer]) break;
                part[i + j] = signed_as(word, (double)(int64_t)steps * widths[layer]);
            }
            s.used += j;
            i += j;
            if (j < most) part[i++] = normal(&generator); /* takes this word again, and what else it needs */
        }
        for (uint64_t i = 0; i < size && start + i < marks; i++) first[start + i] = part[i];
        for (uint64_t i = 0; i < size;) {
            const uint64_t row = dimension - column < size - i ? dimension - column : size - i;
            if (in_float64)
                for (uint64_t j = 0; j < row; j++)
                    ((double *)inputs)[start + i + j] = part[i + j] * scale + values[column + j];
            else
                for (uint64_t j = 0; j < row; j++)
                    ((float *)inputs)[start + i + j] = (float)(part[i + j] * scale + values[column + j]);
            i += row;
            column = (column + row) % dimension;
        }
    }
}
