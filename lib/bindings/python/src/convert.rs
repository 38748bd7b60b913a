//! Python values as MessagePack, and back.
//!
//! What JSON has, and bytes: `None`, booleans, integers of 64 bits, floats, text, bytes, lists,
//! tuples and dictionaries with text as keys. Objects with `model_dump` (pydantic) are what that
//! gives. Bounded in depth, so that a value that contains itself is an error.

use bytes::Bytes;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyDictMethods, PyFloat, PyInt, PyList, PyString, PyTuple,
};
use rmp::Marker;
use rmp::encode;

/// Values within values: more than any request has, and far from the end of the stack.
const MAX_DEPTH: usize = 64;

/// What cannot be read.
const DAMAGED: &str = "a peer sent a value that is no MessagePack";

/// Writes a value.
pub(crate) fn to_bytes(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    let mut bytes = Vec::with_capacity(64);
    write(&mut bytes, value, MAX_DEPTH)?;
    Ok(bytes.into())
}

/// Reads a value.
pub(crate) fn from_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut rest = bytes;
    let value = read(py, &mut rest, MAX_DEPTH)?;
    match rest.is_empty() {
        true => Ok(value),
        false => Err(PyValueError::new_err(DAMAGED)),
    }
}

fn write(bytes: &mut Vec<u8>, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let Some(depth) = depth.checked_sub(1) else {
        let message = format!("a value has more than {MAX_DEPTH} levels, or contains itself");
        return Err(PyValueError::new_err(message));
    };
    if let Ok(text) = value.cast::<PyString>() {
        written(encode::write_str(bytes, text.to_str()?))
    } else if let Ok(dict) = value.cast::<PyDict>() {
        written(encode::write_map_len(bytes, length(dict.len())?).map(drop))?;
        for (key, value) in dict.iter() {
            let Ok(name) = key.cast::<PyString>() else {
                let kind = key.get_type().qualname()?;
                let message = format!("dictionaries need text as keys, not {kind}");
                return Err(PyTypeError::new_err(message));
            };
            written(encode::write_str(bytes, name.to_str()?))?;
            write(bytes, &value, depth)?;
        }
        Ok(())
    } else if value.is_instance_of::<PyBool>() {
        written(encode::write_bool(bytes, value.extract()?))
    } else if value.is_instance_of::<PyInt>() {
        write_int(bytes, value)
    } else if let Ok(list) = value.cast::<PyList>() {
        written(encode::write_array_len(bytes, length(list.len())?).map(drop))?;
        list.iter().try_for_each(|item| write(bytes, &item, depth))
    } else if value.is_none() {
        written(encode::write_nil(bytes))
    } else if let Ok(number) = value.cast::<PyFloat>() {
        written(encode::write_f64(bytes, number.value()))
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        written(encode::write_array_len(bytes, length(tuple.len())?).map(drop))?;
        tuple.iter().try_for_each(|item| write(bytes, &item, depth))
    } else if let Ok(raw) = value.cast::<PyBytes>() {
        written(encode::write_bin(bytes, raw.as_bytes()))
    } else if let Ok(dump) = value.getattr("model_dump") {
        write(bytes, &dump.call0()?, depth)
    } else {
        let kind = value.get_type().qualname()?;
        Err(PyTypeError::new_err(format!(
            "a value of type {kind} cannot be sent: use None, bool, int, float, str, bytes, list, \
             tuple, dict, or a pydantic model"
        )))
    }
}

fn write_int(bytes: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(number) = value.extract::<i64>() {
        return written(encode::write_sint(bytes, number).map(drop));
    }
    let number = value.extract::<u64>().map_err(|_| {
        PyValueError::new_err("an integer is out of the range of 64 bits; send it as text")
    })?;
    written(encode::write_uint(bytes, number).map(drop))
}

/// Memory takes whatever is written to it.
fn written<T, E: std::fmt::Display>(result: Result<T, E>) -> PyResult<T> {
    result.map_err(|error| PyValueError::new_err(format!("cannot encode: {error}")))
}

fn length(len: usize) -> PyResult<u32> {
    u32::try_from(len).map_err(|_| PyValueError::new_err("a value has too many items"))
}

fn read<'py>(py: Python<'py>, rest: &mut &[u8], depth: usize) -> PyResult<Bound<'py, PyAny>> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(PyValueError::new_err(DAMAGED));
    };
    let marker = Marker::from_u8(take::<1>(rest)?[0]);
    Ok(match marker {
        Marker::Null => py.None().into_bound(py),
        Marker::True => PyBool::new(py, true).to_owned().into_any(),
        Marker::False => PyBool::new(py, false).to_owned().into_any(),
        Marker::FixPos(number) => number.into_pyobject(py)?.into_any(),
        Marker::FixNeg(number) => number.into_pyobject(py)?.into_any(),
        Marker::U8 => take::<1>(rest)?[0].into_pyobject(py)?.into_any(),
        Marker::U16 => u16::from_be_bytes(take(rest)?)
            .into_pyobject(py)?
            .into_any(),
        Marker::U32 => u32::from_be_bytes(take(rest)?)
            .into_pyobject(py)?
            .into_any(),
        Marker::U64 => u64::from_be_bytes(take(rest)?)
            .into_pyobject(py)?
            .into_any(),
        Marker::I8 => i8::from_be_bytes(take(rest)?).into_pyobject(py)?.into_any(),
        Marker::I16 => i16::from_be_bytes(take(rest)?)
            .into_pyobject(py)?
            .into_any(),
        Marker::I32 => i32::from_be_bytes(take(rest)?)
            .into_pyobject(py)?
            .into_any(),
        Marker::I64 => i64::from_be_bytes(take(rest)?)
            .into_pyobject(py)?
            .into_any(),
        Marker::F32 => PyFloat::new(py, f32::from_be_bytes(take(rest)?).into()).into_any(),
        Marker::F64 => PyFloat::new(py, f64::from_be_bytes(take(rest)?)).into_any(),
        Marker::FixStr(len) => text(py, rest, len.into())?,
        Marker::Str8 => {
            let len = take::<1>(rest)?[0].into();
            text(py, rest, len)?
        }
        Marker::Str16 => {
            let len = u16::from_be_bytes(take(rest)?).into();
            text(py, rest, len)?
        }
        Marker::Str32 => {
            let len = wide(take(rest)?);
            text(py, rest, len)?
        }
        Marker::Bin8 => {
            let len = take::<1>(rest)?[0].into();
            PyBytes::new(py, part(rest, len)?).into_any()
        }
        Marker::Bin16 => {
            let len = u16::from_be_bytes(take(rest)?).into();
            PyBytes::new(py, part(rest, len)?).into_any()
        }
        Marker::Bin32 => {
            let len = wide(take(rest)?);
            PyBytes::new(py, part(rest, len)?).into_any()
        }
        Marker::FixArray(len) => list(py, rest, len.into(), depth)?,
        Marker::Array16 => {
            let len = u16::from_be_bytes(take(rest)?).into();
            list(py, rest, len, depth)?
        }
        Marker::Array32 => {
            let len = wide(take(rest)?);
            list(py, rest, len, depth)?
        }
        Marker::FixMap(len) => dict(py, rest, len.into(), depth)?,
        Marker::Map16 => {
            let len = u16::from_be_bytes(take(rest)?).into();
            dict(py, rest, len, depth)?
        }
        Marker::Map32 => {
            let len = wide(take(rest)?);
            dict(py, rest, len, depth)?
        }
        _ => return Err(PyValueError::new_err(DAMAGED)),
    })
}

fn text<'py>(py: Python<'py>, rest: &mut &[u8], len: usize) -> PyResult<Bound<'py, PyAny>> {
    let text = std::str::from_utf8(part(rest, len)?);
    let text = text.map_err(|_| PyValueError::new_err(DAMAGED))?;
    Ok(PyString::new(py, text).into_any())
}

fn list<'py>(
    py: Python<'py>,
    rest: &mut &[u8],
    len: usize,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    // Grown as it is read: a length that is a lie costs no memory.
    let list = PyList::empty(py);
    for _ in 0..len {
        list.append(read(py, rest, depth)?)?;
    }
    Ok(list.into_any())
}

fn dict<'py>(
    py: Python<'py>,
    rest: &mut &[u8],
    len: usize,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let dict = PyDict::new(py);
    for _ in 0..len {
        let key = read(py, rest, depth)?;
        dict.set_item(key, read(py, rest, depth)?)?;
    }
    Ok(dict.into_any())
}

fn wide(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX)
}

fn take<const N: usize>(rest: &mut &[u8]) -> PyResult<[u8; N]> {
    let bytes = part(rest, N)?;
    bytes.try_into().map_err(|_| PyValueError::new_err(DAMAGED))
}

fn part<'a>(rest: &mut &'a [u8], len: usize) -> PyResult<&'a [u8]> {
    let Some((part, after)) = rest.split_at_checked(len) else {
        return Err(PyValueError::new_err(DAMAGED));
    };
    *rest = after;
    Ok(part)
}
