//! JSON's tokens, read from a text that is known to be UTF-8.
//!
//! Strict: RFC 8259 and nothing more. Strings without escapes are borrowed.

use std::borrow::Cow;

use crate::error::JsonReason;

/// Objects and arrays inside each other. An attribute nested to [`crate::ingest::VALUE_DEPTH_MAX`] takes four levels of JSON
/// per level of value.
pub(super) const DEPTH_MAX: usize = 160;

#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    pub(super) at: usize,
    depth: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            depth: 0,
        }
    }

    /// The first byte of the next token.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, JsonReason> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(JsonReason::End)
    }

    pub(super) fn is_finished(&mut self) -> bool {
        self.peek().is_err()
    }

    /// Enters an object or array.
    pub(super) fn open(&mut self, bracket: u8) -> Result<(), JsonReason> {
        self.expect(bracket)?;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            Err(JsonReason::TooDeep)
        } else {
            Ok(())
        }
    }

    /// Whether another member follows in an object or array that ends with `bracket`; leaves it when not.
    #[inline]
    pub(super) fn next_member(&mut self, bracket: u8, is_first: bool) -> Result<bool, JsonReason> {
        let next = self.peek()?;
        if next == bracket {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if !is_first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// A member's key and the colon after it.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Cow<'a, [u8]>, JsonReason> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    pub(super) fn literal(&mut self, word: &'static [u8]) -> Result<(), JsonReason> {
        if !self.text.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(JsonReason::Character);
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads `null` when it stands here.
    #[inline]
    pub(super) fn null(&mut self) -> Result<bool, JsonReason> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.literal(b"null").map(|()| true)
    }

    pub(super) fn number(&mut self) -> Result<&'a str, JsonReason> {
        self.peek()?;
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            Some(_) => return Err(JsonReason::Number),
            None => return Err(JsonReason::End),
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = self.text.get(start..self.at).unwrap_or_default();
        std::str::from_utf8(number).map_err(|_| JsonReason::Number)
    }

    fn digits(&mut self) -> Result<(), JsonReason> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            Err(JsonReason::Number)
        } else {
            Ok(())
        }
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, JsonReason> {
        self.expect(b'"')?;
        let plain = self.plain()?;
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut whole = plain.to_vec();
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(whole));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let character = self.escape()?;
                    whole.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => whole.extend_from_slice(self.plain()?),
            }
        }
    }

    /// Bytes up to the next quote or backslash.
    #[inline]
    fn plain(&mut self) -> Result<&'a [u8], JsonReason> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
            .ok_or(JsonReason::End)?;
        if rest[end] < 0x20 {
            return Err(JsonReason::Control);
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn escape(&mut self) -> Result<char, JsonReason> {
        let byte = self.byte().ok_or(JsonReason::End)?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(JsonReason::Escape),
        })
    }

    fn unicode(&mut self) -> Result<char, JsonReason> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or(JsonReason::Escape);
        }
        self.literal(b"\\u").map_err(|_| JsonReason::Escape)?;
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(JsonReason::Escape);
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(JsonReason::Escape)
    }

    fn hex4(&mut self) -> Result<u32, JsonReason> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(JsonReason::End)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| {
            char::from(*digit)
                .to_digit(16)
                .map(|digit| value << 4 | digit)
                .ok_or(JsonReason::Escape)
        })
    }

    /// Reads a value of any kind and forgets it.
    pub(super) fn skip(&mut self) -> Result<(), JsonReason> {
        match self.peek()? {
            b'{' => {
                self.open(b'{')?;
                let mut is_first = true;
                while self.next_member(b'}', is_first)? {
                    self.key()?;
                    self.skip()?;
                    is_first = false;
                }
                Ok(())
            }
            b'[' => {
                self.open(b'[')?;
                let mut is_first = true;
                while self.next_member(b']', is_first)? {
                    self.skip()?;
                    is_first = false;
                }
                Ok(())
            }
            b'"' => self.string().map(drop),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ => Err(JsonReason::Character),
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonReason> {
        if self.peek()? != byte {
            return Err(JsonReason::Character);
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}
