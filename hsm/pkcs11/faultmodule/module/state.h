/*
 * What goes wrong, who is where, and what happens before and after each call.
 * fault.c includes this once.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pkcs11go.h"

#define MAGIC 0x6d61796661756c74ULL

/* The words of the control file; faultmodule/control.go has the same. */
enum word {
	W_MAGIC,
	W_DROP,        /* close all sessions at the next call */
	W_LOGOUT,      /* log out at the next call */
	W_SLOT_OFFSET, /* slots are numbered from here */
	W_UNPLUGGED,   /* no token is present */
	W_WEDGED,      /* every call is a general error until C_Finalize */
	W_FLIPS,       /* so many signatures get a bit flipped */
	W_SWAP_FIND,   /* searches find the key that W_OTHER_LABEL names */
	W_SWAP_SIGN,   /* that key signs */
	W_MAX_SESSIONS,
	W_OPEN, /* sessions that are open now, and were at most */
	W_PEAK,
	W_LOGINS_NOW,
	W_CALLS_NOW,
	W_SIGNATURES,
	W_INITIALISED,
	W_REPLAY, /* a digest that was signed before gets the same signature */
	W_VIOLATIONS = 20, /* four of them */
	W_OTHER_LABEL = 24, /* 64 bytes */
	W_FUNCTIONS = 32
};

enum violation {
	V_FINALIZE_UNDER_CALL,
	V_SESSION_SHARED,
	V_LOGINS_AT_ONCE,
	V_NOT_INITIALISED
};

/* The words of each function. */
enum field { CALLS, RV, REMAINING, EVERY, AFTER, HANGS, RELEASES, HANGING, DELAY, FIELDS = 16 };

enum function {
#define X(name) F_##name,
	FUNCTIONS
#undef X
	F_COUNT
};

#define WORDS (W_FUNCTIONS + F_COUNT * FIELDS)

static _Atomic uint64_t *control;
static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static pthread_rwlock_t rw;
static char variable[256], value[4096];

#define FIELD(fn, field) control[W_FUNCTIONS + (fn) * FIELDS + (field)]

static void violation(enum violation v) { control[W_VIOLATIONS + v]++; }

/* sessions remembers who is in which session. A handle is looked for in the
 * places that follow its own. */
#define SESSIONS 4096
#define PROBES 256
static struct {
	_Atomic uint64_t handle; /* plus one: 0 is free */
	_Atomic uint64_t slot;
	_Atomic int busy;
	/* What C_SignInit said, for replay. Of who is in the session. */
	CK_MECHANISM_TYPE mechanism;
	CK_OBJECT_HANDLE key;
} sessions[SESSIONS];

static int session_find(CK_SESSION_HANDLE h)
{
	for (int i = 0; i < PROBES; i++) {
		int at = (h + i) % SESSIONS;
		if (sessions[at].handle == h + 1)
			return at;
	}
	return -1;
}

static void session_add(CK_SESSION_HANDLE h, CK_SLOT_ID slot)
{
	for (int i = 0; i < PROBES; i++) {
		int at = (h + i) % SESSIONS;
		uint64_t none = 0;
		if (atomic_compare_exchange_strong(&sessions[at].handle, &none, h + 1)) {
			sessions[at].slot = slot;
			sessions[at].key = 0;
			sessions[at].busy = 0;
			uint64_t open = ++control[W_OPEN], peak = control[W_PEAK];
			while (open > peak && !atomic_compare_exchange_weak(&control[W_PEAK], &peak, open))
				;
			return;
		}
	}
}

static void session_remove(int at, CK_SESSION_HANDLE h)
{
	uint64_t expected = h + 1;
	if (at >= 0 && atomic_compare_exchange_strong(&sessions[at].handle, &expected, 0))
		control[W_OPEN]--;
}

static void sessions_remove(int all, CK_SLOT_ID slot)
{
	for (int at = 0; at < SESSIONS; at++) {
		uint64_t h = sessions[at].handle;
		if (h != 0 && (all || sessions[at].slot == slot))
			session_remove(at, h - 1);
	}
}

/* replays are signatures by digest, for a token that takes none of the CPU. */
#define REPLAYS 256
static struct {
	pthread_mutex_t lock; /* held to copy, never while something is slow */
	CK_ULONG ndigest, nsig;
	CK_BYTE digest[64], sig[512];
} replays[REPLAYS];

static void replays_init(void)
{
	for (int i = 0; i < REPLAYS; i++)
		pthread_mutex_init(&replays[i].lock, NULL);
}

/* replay copies a signature that was made before, or its length. */
static int replay(CK_BYTE_PTR digest, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG_PTR nsig)
{
	int at = n > 0 ? digest[0] % REPLAYS : 0;
	pthread_mutex_lock(&replays[at].lock);
	int known = n > 0 && replays[at].ndigest == n && memcmp(replays[at].digest, digest, n) == 0 &&
		    (sig == NULL || *nsig >= replays[at].nsig);
	if (known) {
		*nsig = replays[at].nsig;
		if (sig != NULL)
			memcpy(sig, replays[at].sig, *nsig);
	}
	pthread_mutex_unlock(&replays[at].lock);
	return known;
}

static void remember(CK_BYTE_PTR digest, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG nsig)
{
	int at = n > 0 ? digest[0] % REPLAYS : 0;
	if (n == 0 || n > sizeof replays[at].digest || nsig > sizeof replays[at].sig)
		return;
	pthread_mutex_lock(&replays[at].lock);
	memcpy(replays[at].digest, digest, n);
	memcpy(replays[at].sig, sig, nsig);
	replays[at].ndigest = n;
	replays[at].nsig = nsig;
	pthread_mutex_unlock(&replays[at].lock);
}

/* every_slot does something to the tokens behind the callers' backs. */
static void every_slot(void (*what)(CK_SLOT_ID))
{
	CK_SLOT_ID slots[64];
	CK_ULONG n = 64;
	pthread_rwlock_wrlock(&rw);
	if (control[W_INITIALISED] && real->C_GetSlotList(CK_TRUE, slots, &n) == CKR_OK)
		for (CK_ULONG i = 0; i < n; i++)
			what(slots[i]);
	pthread_rwlock_unlock(&rw);
}

static void drop_slot(CK_SLOT_ID slot)
{
	real->C_CloseAllSessions(slot);
	sessions_remove(0, slot);
}

static void logout_slot(CK_SLOT_ID slot)
{
	/* Login belongs to the application, so any session will do. */
	CK_SESSION_HANDLE h;
	if (real->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &h) == CKR_OK) {
		real->C_Logout(h);
		real->C_CloseSession(h);
	}
}

static void pause_ns(uint64_t ns)
{
	struct timespec ts = { ns / 1000000000, ns % 1000000000 };
	while (ns && nanosleep(&ts, &ts) != 0)
		;
}

/* take uses up one of a number of times; all ones is for ever. */
static int take(_Atomic uint64_t *times)
{
	uint64_t n = *times;
	while (n != 0) {
		if (n == UINT64_MAX || atomic_compare_exchange_weak(times, &n, n - 1))
			return 1;
	}
	return 0;
}

static int fails(enum function fn, uint64_t nth)
{
	uint64_t every = FIELD(fn, EVERY);
	if (every != 0)
		return nth % every == 0;
	return take(&FIELD(fn, REMAINING));
}

static void hang(enum function fn)
{
	uint64_t releases = FIELD(fn, RELEASES);
	if (!take(&FIELD(fn, HANGS)))
		return;
	FIELD(fn, HANGING)++;
	while (FIELD(fn, RELEASES) == releases)
		pause_ns(2000000);
	FIELD(fn, HANGING)--;
}

struct call {
	enum function fn;
	uint64_t nth;
	CK_SESSION_HANDLE handle;
	int at; /* in sessions, or -1 */
};

#define NO_SESSION ((CK_SESSION_HANDLE)-1)

/* enter is what happens before the library below is called; anything but CKR_OK
 * is returned in its place. */
static CK_RV enter(struct call *c, enum function fn, CK_SESSION_HANDLE h, int quick)
{
	c->fn = fn;
	c->nth = ++FIELD(fn, CALLS);
	c->handle = h;
	control[W_CALLS_NOW]++;
	if (atomic_exchange(&control[W_DROP], 0))
		every_slot(drop_slot);
	if (atomic_exchange(&control[W_LOGOUT], 0))
		every_slot(logout_slot);
	c->at = h == NO_SESSION ? -1 : session_find(h);
	if (c->at >= 0 && sessions[c->at].busy++ != 0)
		violation(V_SESSION_SHARED);
	if (fn != F_Initialize && !control[W_INITIALISED])
		violation(V_NOT_INITIALISED);
	if (!FIELD(fn, AFTER)) {
		hang(fn);
		if (fails(fn, c->nth))
			return FIELD(fn, RV);
	}
	if (!quick)
		pause_ns(FIELD(fn, DELAY));
	if (control[W_WEDGED] && fn != F_Initialize)
		return CKR_GENERAL_ERROR;
	if (control[W_UNPLUGGED] && h != NO_SESSION)
		return CKR_DEVICE_REMOVED;
	return CKR_OK;
}

/* leave is what happens after: the reply may be lost. */
static CK_RV leave(struct call *c, CK_RV rv)
{
	if (FIELD(c->fn, AFTER)) {
		hang(c->fn);
		if (fails(c->fn, c->nth))
			rv = FIELD(c->fn, RV);
	}
	if (c->at >= 0 && sessions[c->at].handle == c->handle + 1)
		sessions[c->at].busy--;
	control[W_CALLS_NOW]--;
	return rv;
}
