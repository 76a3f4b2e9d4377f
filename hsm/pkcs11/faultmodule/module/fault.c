/*
 * A PKCS#11 library that forwards to another one and goes wrong on command.
 *
 * It lies beside the library that it forwards to and the file that it obeys:
 *
 *   NAME           this library, which a program loads
 *   NAME.real      a copy of the other, so that two of us share nothing
 *   NAME.control   an array of 64-bit words, mapped and shared with the tests
 *   NAME.env       if it is there, VARIABLE=VALUE for C_Initialize of the other:
 *                  two of us can have a configuration each
 *
 * Words are read and written atomically, and no lock is held while a call is
 * delayed or hangs, so that callers meet each other as they would in a device.
 * The one lock, rw, keeps what happens behind the callers' backs (sessions that
 * are dropped, a logout) from running under a call of the library below, which
 * does not survive that; calls share it.
 *
 * What a caller must never do is counted as a violation: see enum violation.
 *
 * FUNCTIONS, the list of what can go wrong, is given by the builder.
 */
#define _GNU_SOURCE
#include "state.h"

#define FORWARD_AS(name, session, quick, expression)      \
	do {                                              \
		struct call c;                            \
		CK_RV rv = enter(&c, F_##name, session, quick); \
		if (rv == CKR_OK) {                       \
			pthread_rwlock_rdlock(&rw);       \
			rv = (expression);                \
			pthread_rwlock_unlock(&rw);       \
		}                                         \
		return leave(&c, rv);                     \
	} while (0)

#define FORWARD(name, session, arguments) FORWARD_AS(name, session, 0, real->C_##name arguments)

/* initialize_below sets the variable. All of us have one environment, so they
 * take turns by a lock on the file of the program. */
static CK_RV initialize_below(CK_VOID_PTR args)
{
	int lock = -1;
	if (variable[0] != 0) {
		lock = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
		if (lock < 0 || flock(lock, LOCK_EX) != 0 || setenv(variable, value, 1) != 0) {
			if (lock >= 0)
				close(lock);
			return CKR_HOST_MEMORY;
		}
	}
	CK_RV rv = real->C_Initialize(args);
	if (lock >= 0)
		close(lock);
	return rv;
}

static CK_RV f_Initialize(CK_VOID_PTR args)
{
	struct call c;
	CK_RV rv = enter(&c, F_Initialize, NO_SESSION, 0);
	if (rv == CKR_OK) {
		pthread_rwlock_wrlock(&rw);
		rv = initialize_below(args);
		if (rv == CKR_OK)
			control[W_INITIALISED] = 1;
		pthread_rwlock_unlock(&rw);
	}
	return leave(&c, rv);
}

static CK_RV f_Finalize(CK_VOID_PTR reserved)
{
	struct call c;
	if (control[W_CALLS_NOW] != 0)
		violation(V_FINALIZE_UNDER_CALL);
	control[W_WEDGED] = 0;
	CK_RV rv = enter(&c, F_Finalize, NO_SESSION, 0);
	if (rv == CKR_OK) {
		pthread_rwlock_wrlock(&rw);
		rv = real->C_Finalize(reserved);
		control[W_INITIALISED] = 0;
		sessions_remove(1, 0);
		pthread_rwlock_unlock(&rw);
	}
	return leave(&c, rv);
}

static CK_RV f_GetInfo(CK_INFO_PTR info) { FORWARD(GetInfo, NO_SESSION, (info)); }

static CK_RV slot_list(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR n)
{
	if (present && control[W_UNPLUGGED]) {
		*n = 0;
		return CKR_OK;
	}
	CK_RV rv = real->C_GetSlotList(present, slots, n);
	for (CK_ULONG i = 0; rv == CKR_OK && slots != NULL && i < *n; i++)
		slots[i] += control[W_SLOT_OFFSET];
	return rv;
}

static CK_RV f_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR n)
{
	FORWARD_AS(GetSlotList, NO_SESSION, 0, slot_list(present, slots, n));
}

#define SLOT(slot) ((slot) - control[W_SLOT_OFFSET])
#define IF_PLUGGED(call) (control[W_UNPLUGGED] ? CKR_TOKEN_NOT_PRESENT : (call))

static CK_RV f_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO_PTR info)
{
	FORWARD(GetSlotInfo, NO_SESSION, (SLOT(slot), info));
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv = real->C_GetTokenInfo(SLOT(slot), info);
	uint64_t max = control[W_MAX_SESSIONS];
	if (rv == CKR_OK && max != 0)
		info->ulMaxSessionCount = info->ulMaxRwSessionCount = max;
	return rv;
}

static CK_RV f_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	FORWARD_AS(GetTokenInfo, NO_SESSION, 0, IF_PLUGGED(token_info(slot, info)));
}

static CK_RV f_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR m, CK_ULONG_PTR n)
{
	FORWARD_AS(GetMechanismList, NO_SESSION, 0, IF_PLUGGED(real->C_GetMechanismList(SLOT(slot), m, n)));
}

static CK_RV f_GetMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE m, CK_MECHANISM_INFO_PTR info)
{
	FORWARD_AS(GetMechanismInfo, NO_SESSION, 0, IF_PLUGGED(real->C_GetMechanismInfo(SLOT(slot), m, info)));
}

static CK_RV f_InitToken(CK_SLOT_ID slot, CK_UTF8CHAR_PTR pin, CK_ULONG n, CK_UTF8CHAR_PTR label)
{
	FORWARD_AS(InitToken, NO_SESSION, 0, IF_PLUGGED(real->C_InitToken(SLOT(slot), pin, n, label)));
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, CK_SESSION_HANDLE_PTR h)
{
	uint64_t max = control[W_MAX_SESSIONS];
	if (max != 0 && control[W_OPEN] >= max)
		return CKR_SESSION_COUNT;
	CK_RV rv = real->C_OpenSession(SLOT(slot), flags, NULL, NULL, h);
	if (rv == CKR_OK)
		session_add(*h, SLOT(slot));
	return rv;
}

static CK_RV f_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR h)
{
	(void)app;
	(void)notify;
	FORWARD_AS(OpenSession, NO_SESSION, 0, IF_PLUGGED(open_session(slot, flags, h)));
}

static CK_RV close_session(int at, CK_SESSION_HANDLE h)
{
	/* Removed first: the library below may give the number out again at once. */
	session_remove(at, h);
	return real->C_CloseSession(h);
}

static CK_RV f_CloseSession(CK_SESSION_HANDLE h)
{
	FORWARD_AS(CloseSession, h, 0, close_session(c.at, h));
}

static CK_RV close_all(CK_SLOT_ID slot)
{
	sessions_remove(0, slot);
	return real->C_CloseAllSessions(slot);
}

static CK_RV f_CloseAllSessions(CK_SLOT_ID slot)
{
	FORWARD_AS(CloseAllSessions, NO_SESSION, 0, IF_PLUGGED(close_all(SLOT(slot))));
}

static CK_RV session_info(CK_SESSION_HANDLE h, CK_SESSION_INFO_PTR info)
{
	CK_RV rv = real->C_GetSessionInfo(h, info);
	if (rv == CKR_OK)
		info->slotID += control[W_SLOT_OFFSET];
	return rv;
}

static CK_RV f_GetSessionInfo(CK_SESSION_HANDLE h, CK_SESSION_INFO_PTR info)
{
	FORWARD_AS(GetSessionInfo, h, 0, session_info(h, info));
}

static CK_RV f_Login(CK_SESSION_HANDLE h, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	struct call c;
	if (control[W_LOGINS_NOW]++ != 0)
		violation(V_LOGINS_AT_ONCE);
	CK_RV rv = enter(&c, F_Login, h, 0);
	if (rv == CKR_OK) {
		pthread_rwlock_rdlock(&rw);
		rv = real->C_Login(h, user, pin, n);
		pthread_rwlock_unlock(&rw);
	}
	control[W_LOGINS_NOW]--;
	return leave(&c, rv);
}

static CK_RV f_Logout(CK_SESSION_HANDLE h) { FORWARD(Logout, h, (h)); }

/* search is C_FindObjectsInit, for the other key if swapped is set. */
static CK_RV search(CK_SESSION_HANDLE h, CK_ATTRIBUTE_PTR t, CK_ULONG n, int swapped)
{
	CK_ATTRIBUTE other[16];
	CK_ULONG m = 0;
	char label[65] = { 0 };
	if (!swapped || n >= 16)
		return real->C_FindObjectsInit(h, t, n);
	memcpy(label, (const void *)&control[W_OTHER_LABEL], 64);
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type != CKA_LABEL && t[i].type != CKA_ID)
			other[m++] = t[i];
	other[m++] = (CK_ATTRIBUTE){ CKA_LABEL, label, strlen(label) };
	return real->C_FindObjectsInit(h, other, m);
}

static CK_RV f_FindObjectsInit(CK_SESSION_HANDLE h, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	FORWARD_AS(FindObjectsInit, h, 0, search(h, t, n, control[W_SWAP_FIND] != 0));
}

static CK_RV f_FindObjects(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE_PTR o, CK_ULONG max, CK_ULONG_PTR n)
{
	FORWARD(FindObjects, h, (h, o, max, n));
}

static CK_RV f_FindObjectsFinal(CK_SESSION_HANDLE h) { FORWARD(FindObjectsFinal, h, (h)); }

static CK_RV f_GetAttributeValue(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	FORWARD(GetAttributeValue, h, (h, o, t, n));
}

static CK_RV f_CreateObject(CK_SESSION_HANDLE h, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	FORWARD(CreateObject, h, (h, t, n, o));
}

static CK_RV f_GenerateKeyPair(CK_SESSION_HANDLE h, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR public, CK_ULONG npublic,
			       CK_ATTRIBUTE_PTR private, CK_ULONG nprivate, CK_OBJECT_HANDLE_PTR opublic, CK_OBJECT_HANDLE_PTR oprivate)
{
	FORWARD(GenerateKeyPair, h, (h, m, public, npublic, private, nprivate, opublic, oprivate));
}

static CK_RV f_GenerateRandom(CK_SESSION_HANDLE h, CK_BYTE_PTR p, CK_ULONG n) { FORWARD(GenerateRandom, h, (h, p, n)); }

static CK_RV sign_init(int at, CK_SESSION_HANDLE h, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	if (at >= 0 && m->pParameter == NULL && control[W_REPLAY]) {
		sessions[at].mechanism = m->mechanism;
		sessions[at].key = key;
		return CKR_OK;
	}
	if (control[W_SWAP_SIGN]) {
		CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
		CK_ATTRIBUTE t = { CKA_CLASS, &class, sizeof class };
		CK_ULONG n = 0;
		CK_RV rv = search(h, &t, 1, 1);
		if (rv != CKR_OK)
			return rv;
		rv = real->C_FindObjects(h, &key, 1, &n);
		real->C_FindObjectsFinal(h);
		if (rv != CKR_OK || n != 1)
			return CKR_KEY_HANDLE_INVALID;
	}
	return real->C_SignInit(h, m, key);
}

static CK_RV f_SignInit(CK_SESSION_HANDLE h, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	FORWARD_AS(SignInit, h, 0, sign_init(c.at, h, m, key));
}

/* sign_below begins the operation first, if sign_init left that for now. */
static CK_RV sign_below(int at, CK_SESSION_HANDLE h, CK_BYTE_PTR p, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG_PTR nsig)
{
	if (at >= 0 && sessions[at].key != 0) {
		if (replay(p, n, sig, nsig)) {
			if (sig != NULL)
				sessions[at].key = 0;
			return CKR_OK;
		}
		CK_MECHANISM m = { sessions[at].mechanism, NULL, 0 };
		CK_RV rv = real->C_SignInit(h, &m, sessions[at].key);
		sessions[at].key = 0;
		if (rv != CKR_OK)
			return rv;
	}
	CK_RV rv = real->C_Sign(h, p, n, sig, nsig);
	if (rv == CKR_OK && sig != NULL && control[W_REPLAY])
		remember(p, n, sig, *nsig);
	return rv;
}

static CK_RV sign(int at, CK_SESSION_HANDLE h, CK_BYTE_PTR p, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG_PTR nsig)
{
	CK_RV rv = sign_below(at, h, p, n, sig, nsig);
	if (rv == CKR_OK && sig != NULL && *nsig > 0) {
		uint64_t nth = ++control[W_SIGNATURES];
		if (take(&control[W_FLIPS]))
			sig[nth % *nsig] ^= 1 << (nth % 8);
	}
	return rv;
}

/* A call that only asks for the length is quick: devices know it by heart. */
static CK_RV f_Sign(CK_SESSION_HANDLE h, CK_BYTE_PTR p, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG_PTR nsig)
{
	FORWARD_AS(Sign, h, sig == NULL, sign(c.at, h, p, n, sig, nsig));
}

static int load(void)
{
	Dl_info self;
	char path[4096];
	if (!dladdr((void *)load, &self))
		return 0;
	snprintf(path, sizeof path, "%s.control", self.dli_fname);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return 0;
	control = mmap(NULL, WORDS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED || control[W_MAGIC] != MAGIC + F_COUNT)
		return 0;
	snprintf(path, sizeof path, "%s.env", self.dli_fname);
	FILE *env = fopen(path, "r");
	if (env != NULL) {
		int n = fscanf(env, "%255[^=]=%4095[^\n]", variable, value);
		fclose(env);
		if (n != 2)
			return 0;
	}
	snprintf(path, sizeof path, "%s.real", self.dli_fname);
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = lib ? dlsym(lib, "C_GetFunctionList") : NULL;
	if (get == NULL || get(&real) != CKR_OK)
		return 0;
	replays_init();
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&rw, &attr);
	list = *real; /* what is not listed is forwarded as it is */
#define X(name) list.C_##name = f_##name;
	FUNCTIONS
#undef X
	return 1;
}

static int loaded;
static void load_once(void) { loaded = load(); }

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, load_once);
	if (!loaded) {
		/* Some callers do not look at what we return. */
		fprintf(stderr, "fault module: its .control or .real file cannot be used: %s\n", dlerror());
		abort();
	}
	*out = &list;
	return CKR_OK;
}
