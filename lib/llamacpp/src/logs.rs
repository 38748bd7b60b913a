//! llama.cpp's log lines, as `tracing` events at debug level under the target `llama_cpp`.
//!
//! llama.cpp writes to stderr unless it is given a callback; the callback is set once for the
//! process, before anything else of llama.cpp runs.

use llama_cpp_sys_2::{ggml_log_level, ggml_log_set, llama_log_set};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

static REDIRECTED: Once = Once::new();

/// Takes llama.cpp's log lines from now on.
#[expect(
    unsafe_code,
    reason = "llama.cpp takes its log callback through C functions"
)]
pub(crate) fn redirect() {
    REDIRECTED.call_once(|| {
        // SAFETY: the callback is a plain function that lives as long as the process and uses no
        // user data. ggml's is set last, because setting llama's sets ggml's too.
        unsafe {
            llama_log_set(Some(on_line), std::ptr::null_mut());
            ggml_log_set(Some(on_line), std::ptr::null_mut());
        }
    });
}

#[expect(unsafe_code, reason = "the text comes as a C string")]
extern "C" fn on_line(_level: ggml_log_level, text: *const c_char, _user: *mut c_void) {
    // llama.cpp's warnings are about its own defaults (such as the full SWA cache that is asked
    // for here on purpose); what concerns the operator is reported by the engine itself.
    if text.is_null() || !tracing::enabled!(target: "llama_cpp", tracing::Level::DEBUG) {
        return;
    }
    // SAFETY: llama.cpp passes a terminated string that outlives the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line = text.trim_end();
    // Progress dots come one by one and say nothing.
    if line.len() > 1 {
        tracing::debug!(target: "llama_cpp", "{line}");
    }
}
