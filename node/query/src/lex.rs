//! Text to tokens, with positions.
//!
//! What always holds: a token's `start..end` are byte offsets of the text, on character boundaries, ascending. White space
//! and comments (`//` to the end of the line, `/* */`) are between tokens, never tokens.
//! Attribute names are read here, because their characters (`-`, `/`, `*` …) are operators elsewhere: after a scope and a
//! dot everything up to white space or one of `{}()=~!<>&|^,` is name.

use std::fmt;

use crate::error::{Error, Result, shortened};
use crate::field::{Field, Intrinsic, Name, Spelling, scope_from_word};
use crate::limits;
use crate::value::{Static, parse_duration};

/// Punctuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sym {
    BraceOpen,
    BraceClose,
    ParenOpen,
    ParenClose,
    Comma,
    Pipe,
    AndAnd,
    OrOr,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Match,
    NotMatch,
    Descendant,
    Ancestor,
    Tilde,
    NotChild,
    NotDescendant,
    NotParent,
    NotAncestor,
    UnionChild,
    UnionDescendant,
    UnionParent,
    UnionAncestor,
    UnionSibling,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Caret,
}

/// Longest first, so that `!>>` is not read as `!>` and `>`.
const SYMBOLS: [(&str, Sym); 35] = [
    ("!>>", Sym::NotDescendant),
    ("!<<", Sym::NotAncestor),
    ("&>>", Sym::UnionDescendant),
    ("&<<", Sym::UnionAncestor),
    ("&&", Sym::AndAnd),
    ("||", Sym::OrOr),
    ("!=", Sym::Ne),
    ("<=", Sym::Le),
    (">=", Sym::Ge),
    ("=~", Sym::Match),
    ("!~", Sym::NotMatch),
    (">>", Sym::Descendant),
    ("<<", Sym::Ancestor),
    ("!>", Sym::NotChild),
    ("!<", Sym::NotParent),
    ("&>", Sym::UnionChild),
    ("&<", Sym::UnionParent),
    ("&~", Sym::UnionSibling),
    ("{", Sym::BraceOpen),
    ("}", Sym::BraceClose),
    ("(", Sym::ParenOpen),
    (")", Sym::ParenClose),
    (",", Sym::Comma),
    ("|", Sym::Pipe),
    ("!", Sym::Not),
    ("=", Sym::Eq),
    ("<", Sym::Lt),
    (">", Sym::Gt),
    ("~", Sym::Tilde),
    ("+", Sym::Plus),
    ("-", Sym::Minus),
    ("*", Sym::Star),
    ("/", Sym::Slash),
    ("%", Sym::Percent),
    ("^", Sym::Caret),
];

impl Sym {
    pub(crate) fn text(self) -> &'static str {
        SYMBOLS
            .iter()
            .find(|(_, sym)| *sym == self)
            .map_or("", |(text, _)| text)
    }
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok<'a> {
    Sym(Sym),
    /// A number, duration or string; words such as `true` and `ok` stay words.
    Literal(Static),
    Word(&'a str),
    /// An attribute with its scope or a scoped intrinsic.
    Field(Field),
    /// Characters that are no token; only [`lex_unfinished`] has it.
    Unreadable,
    End,
}

impl fmt::Display for Tok<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tok::Sym(sym) => write!(f, "'{}'", sym.text()),
            Tok::Literal(value) => write!(f, "{value}"),
            Tok::Word(word) => write!(f, "'{word}'"),
            Tok::Field(field) => write!(f, "'{field}'"),
            Tok::Unreadable => f.write_str("no token"),
            Tok::End => f.write_str("end of query"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) tok: Tok<'a>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Line and column (in characters) of byte `offset`, both from 1.
pub(crate) fn position(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let col = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (
        u32::try_from(line).unwrap_or(u32::MAX),
        u32::try_from(col).unwrap_or(u32::MAX),
    )
}

pub(crate) fn error_at(text: &str, offset: usize, message: impl Into<String>) -> Error {
    let (line, col) = position(text, offset);
    Error::Parse {
        line,
        col,
        message: shortened(message.into()),
    }
}

/// All tokens of `text`, [`Tok::End`] last.
pub(crate) fn lex(text: &str) -> Result<Vec<Token<'_>>> {
    if text.len() > limits::QUERY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "query is {} bytes long, the limit is {}",
            text.len(),
            limits::QUERY_BYTES_MAX
        )));
    }
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next_token()?;
        let last = token.tok == Tok::End;
        tokens.push(token);
        if last {
            return Ok(tokens);
        }
    }
}

/// The tokens of a text that is being typed, [`Tok::End`] last. What is no token is [`Tok::Unreadable`] up to where a name
/// would end, because more may follow; behind a string or a comment that does not end there is nothing more.
pub(crate) fn lex_unfinished(text: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    while text.len() <= limits::QUERY_BYTES_MAX {
        let is_blank_readable = lexer.skip_blank().is_ok();
        let start = lexer.at;
        match lexer.next_token() {
            Ok(token) if token.tok == Tok::End => break,
            Ok(token) => tokens.push(token),
            Err(_) => {
                let rest = &text[start..];
                let is_open = !is_blank_readable || rest.starts_with(['"', '`']);
                let first = rest.chars().next().map_or(0, char::len_utf8);
                let length = rest[first..].find(ends_name).unwrap_or(rest.len() - first);
                lexer.at = if is_open { text.len() } else { start + first + length };
                tokens.push(Token {
                    tok: Tok::Unreadable,
                    start,
                    end: lexer.at,
                });
            }
        }
    }
    let end = tokens.last().map_or(0, |token| token.end);
    tokens.push(Token {
        tok: Tok::End,
        start: end,
        end,
    });
    tokens
}

/// Whether `c` ends an unquoted attribute name.
pub(crate) fn ends_name(c: char) -> bool {
    c.is_whitespace() || "{}()=~!<>&|^,\"".contains(c)
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Prefixes that make `prefix:word` a scoped intrinsic.
const INTRINSIC_SCOPES: [&str; 6] = ["trace", "span", "event", "link", "instrumentation", "resource"];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error<T>(&self, offset: usize, message: impl Into<String>) -> Result<T> {
        Err(error_at(self.text, offset, message))
    }

    fn skip_blank(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                match trimmed.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return self.error(self.at, "comment is not closed, expected '*/'"),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next_token(&mut self) -> Result<Token<'a>> {
        self.skip_blank()?;
        let start = self.at;
        let tok = self.read_token(start)?;
        Ok(Token {
            tok,
            start,
            end: self.at,
        })
    }

    fn read_token(&mut self, start: usize) -> Result<Tok<'a>> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Tok::End);
        };
        match first {
            '"' => {
                return self
                    .read_quoted(start)
                    .map(|text| Tok::Literal(Static::Str(text.into())));
            }
            '`' => return self.read_raw(start),
            '.' => return self.read_dot(start),
            '0'..='9' => return self.read_number(start),
            c if is_word_start(c) => return self.read_word(start),
            _ => {}
        }
        match SYMBOLS.iter().find(|(text, _)| rest.starts_with(text)) {
            Some((text, sym)) => {
                self.at += text.len();
                Ok(Tok::Sym(*sym))
            }
            None => self.error(start, format!("unexpected character {first:?}")),
        }
    }

    fn read_word(&mut self, start: usize) -> Result<Tok<'a>> {
        let rest = self.rest();
        let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = &rest[..len];
        self.at += len;
        let scope = scope_from_word(word);
        match self.peek() {
            Some('.') if scope.is_some() => {
                self.at += 1;
                let key = self.read_name(start)?;
                Ok(Tok::Field(Field {
                    of_parent: false,
                    name: Name::Attribute(scope, key.into()),
                }))
            }
            Some('.') if word == "parent" => {
                self.at += 1;
                self.read_parent(start)
            }
            Some(':') if INTRINSIC_SCOPES.contains(&word) => {
                let which = self.read_scoped_intrinsic(start)?;
                Ok(Tok::Field(Field {
                    of_parent: false,
                    name: Name::Intrinsic(which, Spelling::Scoped),
                }))
            }
            Some('.' | ':') => {
                let len = self.rest().find(ends_name).unwrap_or(self.rest().len());
                self.at += len;
                let found = self.text.get(start..self.at).unwrap_or_default();
                self.error(
                    start,
                    format!("unknown identifier: {found}, expected a scope before the name, such as .{found} or span.{found}"),
                )
            }
            _ => Ok(Tok::Word(word)),
        }
    }

    /// After `parent.`: an attribute of any scope, a scoped attribute, or a scoped intrinsic.
    fn read_parent(&mut self, start: usize) -> Result<Tok<'a>> {
        let rest = self.rest();
        let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(len);
        let scope = scope_from_word(word);
        if scope.is_some() && tail.starts_with('.') {
            self.at += len + 1;
            let key = self.read_name(start)?;
            return Ok(Tok::Field(Field {
                of_parent: true,
                name: Name::Attribute(scope, key.into()),
            }));
        }
        if INTRINSIC_SCOPES.contains(&word) && tail.starts_with(':') {
            let inner = self.at;
            self.at += len;
            let which = self.read_scoped_intrinsic(inner)?;
            return Ok(Tok::Field(Field {
                of_parent: true,
                name: Name::Intrinsic(which, Spelling::Scoped),
            }));
        }
        let key = self.read_name(start)?;
        Ok(Tok::Field(Field {
            of_parent: true,
            name: Name::Attribute(None, key.into()),
        }))
    }

    /// After the scope of a scoped intrinsic, at the colon; `start` is where the scope begins.
    fn read_scoped_intrinsic(&mut self, start: usize) -> Result<Intrinsic> {
        let rest = self.rest().strip_prefix(':').unwrap_or_default();
        self.at += 1 + rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let spelled = self.text.get(start..self.at).unwrap_or_default();
        match Intrinsic::from_scoped(spelled) {
            Some(which) => Ok(which),
            None => {
                let scope = spelled.split(':').next().unwrap_or_default();
                let known: Vec<_> = Intrinsic::ALL
                    .iter()
                    .filter_map(|i| i.scoped())
                    .filter(|s| s.split(':').next() == Some(scope))
                    .collect();
                let hint = if known.is_empty() {
                    String::new()
                } else {
                    format!(", expected one of {}", known.join(", "))
                };
                self.error(start, format!("unknown identifier: {spelled}{hint}"))
            }
        }
    }

    fn read_dot(&mut self, start: usize) -> Result<Tok<'a>> {
        let rest = self.rest();
        let run = &rest[..1 + rest[1..].find(ends_name).unwrap_or(rest.len() - 1)];
        if let Some(value) = number(run) {
            self.at += run.len();
            return Ok(Tok::Literal(value));
        }
        self.at += 1;
        let key = self.read_name(start)?;
        Ok(Tok::Field(Field {
            of_parent: false,
            name: Name::Attribute(None, key.into()),
        }))
    }

    /// A name after its dot: plain runs and quoted parts in any order.
    fn read_name(&mut self, start: usize) -> Result<String> {
        let mut name = String::new();
        let mut any = false;
        while let Some(c) = self.peek() {
            if c == '"' {
                name.push_str(&self.read_name_quoted()?);
            } else if ends_name(c) {
                break;
            } else {
                name.push(c);
                self.at += c.len_utf8();
            }
            any = true;
        }
        if !any {
            let found = self.text.get(start..self.at).unwrap_or_default();
            return self.error(
                start,
                format!("unknown identifier: {found}, expected an attribute name after the dot"),
            );
        }
        Ok(name)
    }

    /// A quoted part of a name: only `\"` and `\\` are escapes.
    fn read_name_quoted(&mut self) -> Result<String> {
        let open = self.at;
        let mut name = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(name);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => name.push(escaped),
                    _ => return self.error(open + i, "invalid escape in attribute name, expected \\\" or \\\\"),
                },
                c => name.push(c),
            }
        }
        self.error(open, "quoted attribute name is not closed, expected '\"'")
    }

    fn read_raw(&mut self, start: usize) -> Result<Tok<'a>> {
        let body = &self.rest()[1..];
        match body.find('`') {
            Some(end) => {
                self.at += end + 2;
                Ok(Tok::Literal(Static::str(&body[..end])))
            }
            None => self.error(start, "string is not closed, expected '`'"),
        }
    }

    /// A string in double quotes, with Go's escapes.
    fn read_quoted(&mut self, start: usize) -> Result<String> {
        let mut bytes = Vec::new();
        let body = self.rest();
        let mut at = 1;
        while let Some(c) = body[at..].chars().next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return match String::from_utf8(bytes) {
                        Ok(text) => Ok(text),
                        Err(_) => self.error(start, "escapes in the string do not add up to UTF-8"),
                    };
                }
                '\n' => break,
                '\\' => match escape(&body[at..]) {
                    Some((Escaped::Byte(byte), len)) => {
                        bytes.push(byte);
                        at += len;
                    }
                    Some((Escaped::Char(c), len)) => {
                        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        at += len;
                    }
                    None => return self.error(start + at, "invalid escape in string"),
                },
                c => {
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    at += c.len_utf8();
                }
            }
        }
        self.error(start, "string is not closed, expected '\"'")
    }

    fn read_number(&mut self, start: usize) -> Result<Tok<'a>> {
        let rest = self.rest();
        let mut len = 0;
        let mut previous = ' ';
        for c in rest.chars() {
            let exponent_sign = (c == '+' || c == '-')
                && (previous == 'e' || previous == 'E')
                && rest[..len - 1].chars().all(|c| c.is_ascii_digit() || c == '.');
            if !(is_word(c) || c == '.' || exponent_sign) {
                break;
            }
            len += c.len_utf8();
            previous = c;
        }
        let run = &rest[..len];
        match number(run) {
            Some(value) => {
                self.at += len;
                Ok(Tok::Literal(value))
            }
            None => self.error(
                start,
                format!("'{run}' is not a number or duration, or does not fit into 64 bits"),
            ),
        }
    }
}

/// The value of a literal that starts with a digit or a dot.
fn number(run: &str) -> Option<Static> {
    if run.bytes().all(|b| b.is_ascii_digit()) {
        return run.parse().ok().map(Static::Int);
    }
    if let Some(nanos) = parse_duration(run) {
        return Some(Static::Duration(nanos));
    }
    let float_like = run.bytes().any(|b| b.is_ascii_digit())
        && run
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value: f64 = if float_like { run.parse().ok()? } else { return None };
    value.is_finite().then_some(Static::Float(value))
}

enum Escaped {
    Byte(u8),
    Char(char),
}

/// The escape at the start of `text` (a backslash) and its length in bytes.
fn escape(text: &str) -> Option<(Escaped, usize)> {
    let code = text[1..].chars().next()?;
    let digits = |from: usize, len: usize, radix: u32| {
        text.get(from..from + len)
            .filter(|d| d.chars().all(|c| c.is_digit(radix)))
            .and_then(|d| u32::from_str_radix(d, radix).ok())
    };
    let simple = |byte: u8| Some((Escaped::Byte(byte), 2));
    match code {
        'a' => simple(7),
        'b' => simple(8),
        'f' => simple(12),
        'n' => simple(b'\n'),
        'r' => simple(b'\r'),
        't' => simple(b'\t'),
        'v' => simple(11),
        '\\' => simple(b'\\'),
        '"' => simple(b'"'),
        '\'' => simple(b'\''),
        'x' => Some((Escaped::Byte(u8::try_from(digits(2, 2, 16)?).ok()?), 4)),
        '0'..='7' => Some((Escaped::Byte(u8::try_from(digits(1, 3, 8)?).ok()?), 4)),
        'u' => Some((Escaped::Char(char::from_u32(digits(2, 4, 16)?)?), 6)),
        'U' => Some((Escaped::Char(char::from_u32(digits(2, 8, 16)?)?), 10)),
        _ => None,
    }
}
