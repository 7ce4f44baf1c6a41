/* address.c - see address.h. */
#include "services/gateway/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t prefix[16];
    int bits;
} block;

/* https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast. */
static const block special4[] = {
    {{0}, 8},             /* this network */
    {{10}, 8},            /* private */
    {{100, 64}, 10},      /* carrier-grade NAT */
    {{127}, 8},           /* loopback */
    {{169, 254}, 16},     /* link-local: clouds' metadata services are here */
    {{172, 16}, 12},      /* private */
    {{192, 0, 0}, 24},    /* protocol assignments */
    {{192, 0, 2}, 24},    /* documentation */
    {{192, 88, 99}, 24},  /* 6to4 relays */
    {{192, 168}, 16},     /* private */
    {{198, 18}, 15},      /* benchmarks */
    {{198, 51, 100}, 24}, /* documentation */
    {{203, 0, 113}, 24},  /* documentation */
    {{224}, 4},           /* multicast */
    {{240}, 4},           /* reserved, broadcast */
};

/* Inside global unicast, and yet special. */
static const block special6[] = {
    {{0x20, 0x01, 0x00}, 23},       /* protocol assignments, Teredo among them */
    {{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
    {{0x20, 0x02}, 16},             /* 6to4: any IPv4 address inside */
    {{0x3f, 0xff, 0x00}, 20},       /* documentation */
};
static const block global6 = {{0x20}, 3};
static const block mapped6 = {{[10] = 0xff, [11] = 0xff}, 96};
static const block nat64 = {{0x00, 0x64, 0xff, 0x9b}, 96};

static bool is_in(const uint8_t *a, const block *b) {
    int whole = b->bits / 8, rest = b->bits % 8;
    if (memcmp(a, b->prefix, (size_t)whole) != 0) return false;
    return rest == 0 || ((a[whole] ^ b->prefix[whole]) & (0xff00 >> rest) & 0xff) == 0;
}

static bool is_public4(const uint8_t *a) {
    for (size_t i = 0; i < sizeof(special4) / sizeof(special4[0]); i++)
        if (is_in(a, &special4[i])) return false;
    return true;
}

static bool is_public6(const uint8_t *a) {
    if (is_in(a, &mapped6) || is_in(a, &nat64)) return is_public4(a + 12);
    if (!is_in(a, &global6)) return false;
    for (size_t i = 0; i < sizeof(special6) / sizeof(special6[0]); i++)
        if (is_in(a, &special6[i])) return false;
    return true;
}

bool address_is_public(const struct sockaddr *a) {
    if (a->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, a, sizeof(in));
        return is_public4((const uint8_t *)&in.sin_addr);
    }
    if (a->sa_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, a, sizeof(in));
        return is_public6(in.sin6_addr.s6_addr);
    }
    return false;
}
