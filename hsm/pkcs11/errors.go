package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// class says what an error means for the session, the connection and the caller.
type class int

const (
	// classCaller: the request was wrong. Nothing heals that; it is not tried again.
	classCaller class = iota
	// classSession: this session is spent. Another may do.
	classSession
	// classHandle: the object handle means nothing any more.
	classHandle
	// classLogin: the token forgot who is logged in.
	classLogin
	// classCapacity: too many sessions, or too much asked at once.
	classCapacity
	// classDevice: the token is away or ill.
	classDevice
	// classHung: the call did not return in time.
	classHung
	// classFatal: the token refused the PIN. To try again is to lock it.
	classFatal
	// classConfig: what the configuration says is not what the token has.
	classConfig
	// classUnknown: a code of the vendor's own. It is treated as classDevice.
	classUnknown
)

var classNames = [...]string{"caller", "session", "handle", "login", "capacity", "device", "hung", "fatal", "config", "unknown"}

func (c class) String() string { return classNames[c] }

// callError is what a call of PKCS#11 returned.
type callError struct {
	call string
	err  error
}

func (e *callError) Error() string { return e.call + ": " + e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// classError fixes the class of an error that no call of PKCS#11 returned, or
// that means more than its code says.
type classError struct {
	class class
	err   error
}

func (e *classError) Error() string { return e.err.Error() }
func (e *classError) Unwrap() error { return e.err }

func fault(c class, format string, args ...any) error {
	return &classError{c, fmt.Errorf(format, args...)}
}

// codes is the table of what each return value means. What is not in it is
// unknown and treated as a fault of the device.
var codes = map[p11.Error]class{
	p11.CKR_DATA_INVALID:               classCaller,
	p11.CKR_DATA_LEN_RANGE:             classCaller,
	p11.CKR_MECHANISM_INVALID:          classCaller,
	p11.CKR_MECHANISM_PARAM_INVALID:    classCaller,
	p11.CKR_KEY_SIZE_RANGE:             classCaller,
	p11.CKR_KEY_TYPE_INCONSISTENT:      classCaller,
	p11.CKR_KEY_FUNCTION_NOT_PERMITTED: classCaller,
	p11.CKR_ARGUMENTS_BAD:              classCaller,

	p11.CKR_SESSION_HANDLE_INVALID:    classSession,
	p11.CKR_SESSION_CLOSED:            classSession,
	p11.CKR_OPERATION_ACTIVE:          classSession,
	p11.CKR_OPERATION_NOT_INITIALIZED: classSession,

	p11.CKR_KEY_HANDLE_INVALID:    classHandle,
	p11.CKR_OBJECT_HANDLE_INVALID: classHandle,

	p11.CKR_USER_NOT_LOGGED_IN: classLogin,

	p11.CKR_SESSION_COUNT:     classCapacity,
	p11.CKR_HOST_MEMORY:       classCapacity,
	p11.CKR_DEVICE_MEMORY:     classCapacity,
	p11.CKR_FUNCTION_REJECTED: classCapacity,

	p11.CKR_DEVICE_ERROR:             classDevice,
	p11.CKR_DEVICE_REMOVED:           classDevice,
	p11.CKR_TOKEN_NOT_PRESENT:        classDevice,
	p11.CKR_TOKEN_NOT_RECOGNIZED:     classDevice,
	p11.CKR_SLOT_ID_INVALID:          classDevice,
	p11.CKR_GENERAL_ERROR:            classDevice,
	p11.CKR_FUNCTION_FAILED:          classDevice,
	p11.CKR_CRYPTOKI_NOT_INITIALIZED: classDevice,

	p11.CKR_PIN_INCORRECT:            classFatal,
	p11.CKR_PIN_LOCKED:               classFatal,
	p11.CKR_PIN_EXPIRED:              classFatal,
	p11.CKR_PIN_INVALID:              classFatal,
	p11.CKR_PIN_LEN_RANGE:            classFatal,
	p11.CKR_USER_PIN_NOT_INITIALIZED: classFatal,
}

// classify returns what an error means.
func classify(err error) class {
	if e, ok := errors.AsType[*classError](err); ok {
		return e.class
	}
	if errors.Is(err, errRenewed) || errors.Is(err, errRenewing) {
		return classLogin
	}
	code, ok := errors.AsType[p11.Error](err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return classHung
		}
		return classUnknown
	}
	c, known := codes[code]
	if !known {
		return classUnknown
	}
	if e, ok := errors.AsType[*callError](err); ok && c == classCaller {
		switch e.call {
		case "C_OpenSession":
			// Old libraries of AWS CloudHSM say CKR_ARGUMENTS_BAD for too many sessions.
			return classCapacity
		case "C_SignInit", "C_Sign":
		default:
			// Only what is signed comes from a caller. Elsewhere the arguments
			// are ours, and a token that does not take them is ill.
			return classDevice
		}
	}
	return c
}

// RefusedPIN reports whether err, of opening a token or of its Ready, means that
// the token refused the PIN, or that none was given to it because of the state it
// is in. Such a token is not tried again by itself; it can be opened anew.
func RefusedPIN(err error) bool { return err != nil && classify(err) == classFatal }

// broken reports whether an error of this class ends the connection.
func (c class) broken() bool {
	switch c {
	case classHandle, classLogin, classDevice, classUnknown, classFatal:
		return true
	default:
		return false
	}
}

// codeName returns what a metric calls an error: CKR_DEVICE_ERROR, the number of
// a code that PKCS#11 has no name for, or none.
func codeName(err error) string {
	code, ok := errors.AsType[p11.Error](err)
	if !ok {
		return "none"
	}
	if text := code.Error(); code < p11.CKR_VENDOR_DEFINED {
		if i := strings.LastIndex(text, "CKR_"); i >= 0 {
			return text[i:]
		}
	}
	return fmt.Sprintf("0x%08X", uint(code))
}
