//! As much of HTTP/1.1 as the stand-ins for AWS's services need: messages, servers in a namespace, calls from one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::listener::Listener;
use crate::netns::Netns;

const CALL_LIMIT: Duration = Duration::from_secs(30);

pub type Headers = Vec<(String, String)>;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A line without its end, or None at the end of the connection.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").ok_or_else(|| malformed("a head that is cut"))?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map(Some).map_err(|_| malformed("a head that is no text"))
}

/// The first line of a message and its headers.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(String, Headers)>> {
    let Some(first) = read_line(reader)? else { return Ok(None) };
    let mut headers = Headers::new();
    loop {
        let line = read_line(reader)?.ok_or_else(|| malformed("a head that is cut"))?;
        if line.is_empty() {
            return Ok(Some((first, headers)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn content_length(headers: &Headers) -> io::Result<Option<usize>> {
    find(headers, "content-length").map(|value| value.parse().map_err(|_| malformed(value))).transpose()
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or_else(|| malformed("a body that is cut"))?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).map_err(|_| malformed(&line))?;
        read_more(reader, &mut body, length)?;
        // Behind a chunk its line's end; behind the last one trailers, up to an empty line.
        while !read_line(reader)?.ok_or_else(|| malformed("a body that is cut"))?.is_empty() {}
        if length == 0 {
            return Ok(body);
        }
    }
}

fn read_more(reader: &mut impl BufRead, body: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let read = reader.take(length as u64).read_to_end(body)?;
    if read == length { Ok(()) } else { Err(malformed("a body that is cut")) }
}

impl Request {
    /// A call as an AWS SDK signs it; nobody here looks at the signature.
    pub fn signed(method: &str, path: &str, service: &str, body: impl Into<Vec<u8>>) -> Self {
        let credential = format!("Credential=test/20260101/us-east-1/{service}/aws4_request");
        let authorization = format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0");
        let headers = vec![("Authorization".to_owned(), authorization)];
        Self { method: method.to_owned(), path: path.to_owned(), headers, body: body.into() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Reads the first line and the headers; None at the end of the connection.
    pub fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some((first, headers)) = read_head(reader)? else { return Ok(None) };
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Err(malformed(&first)) };
        Ok(Some(Self { method, path, headers, body: Vec::new() }))
    }

    pub fn content_length(&self) -> io::Result<Option<usize>> {
        content_length(&self.headers)
    }

    /// Reads the body behind the head, whole, from a client that may wait to be told to send it.
    pub fn read_body(&mut self, reader: &mut impl BufRead, mut writer: impl Write) -> io::Result<()> {
        if self.header("expect").is_some() {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if self.header("transfer-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked")) {
            self.body = read_chunks(reader)?;
        } else if let Some(length) = self.content_length()? {
            read_more(reader, &mut self.body, length)?;
        }
        Ok(())
    }

    /// As a message of its own on a connection of its own: a body of known length, no other call after it.
    pub fn write(&self, mut writer: impl Write, host: SocketAddr) -> io::Result<()> {
        const OF_A_HOP: [&str; 4] = ["connection", "content-length", "expect", "transfer-encoding"];
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            if !OF_A_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        if self.header("host").is_none() {
            head += &format!("Host: {host}\r\n");
        }
        head += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n", self.body.len());
        writer.write_all(head.as_bytes())?;
        writer.write_all(&self.body)
    }

    /// Sends it on a connection of its own and waits for the answer.
    pub fn send(&self, to: SocketAddr) -> Result<Response> {
        let stream = TcpStream::connect_timeout(&to, CALL_LIMIT)?;
        stream.set_read_timeout(Some(CALL_LIMIT))?;
        self.write(&stream, to)?;
        Ok(Response::read(&mut BufReader::new(&stream), self.method == "HEAD")?)
    }

    /// As [`Self::send`], from a namespace and with success.
    pub fn call(&self, ns: &Netns, to: SocketAddr) -> Result<Response> {
        let what = || format!("{} {} at {to}", self.method, self.path);
        let response = ns.enter(|| self.send(to)).with_context(what)?;
        anyhow::ensure!(response.status < 300, "{}: {} {}", what(), response.status, response.text());
        Ok(response)
    }
}

impl Response {
    pub fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("Content-Type".to_owned(), kind.to_owned())], body: body.into() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn read(reader: &mut impl BufRead, is_head: bool) -> io::Result<Self> {
        let (first, headers) = read_head(reader)?.ok_or_else(|| malformed("no answer"))?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| malformed(&first))?;
        let mut body = Vec::new();
        if is_head || status == 204 {
            // Whatever its headers say, there is none.
        } else if find(&headers, "transfer-encoding").is_some() {
            body = read_chunks(reader)?;
        } else if let Some(length) = content_length(&headers)? {
            read_more(reader, &mut body, length)?;
        } else {
            reader.read_to_end(&mut body)?;
        }
        Ok(Self { status, headers, body })
    }

    /// Leaves the connection open for the next request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} -\r\n", self.status);
        for (name, value) in &self.headers {
            if !["connection", "content-length", "transfer-encoding"].iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        // The answer to HEAD has the length of a body that it has not.
        let length = self.header("content-length").filter(|_| self.body.is_empty()).map(str::to_owned);
        head += &format!("Content-Length: {}\r\n\r\n", length.unwrap_or_else(|| self.body.len().to_string()));
        [head.as_bytes(), &self.body].concat()
    }
}

/// Answers every request to `address` in the namespace.
pub fn serve(
    ns: &Netns,
    address: SocketAddr,
    answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
) -> Result<Listener> {
    Listener::start(ns, address, move |stream| {
        let mut reader = BufReader::new(stream);
        while let Some(mut request) = Request::read_head(&mut reader)? {
            request.read_body(&mut reader, stream)?;
            let mut writer = stream;
            writer.write_all(&answer(&request).bytes())?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<Request>> {
        let mut reader = text.as_bytes();
        let Some(mut request) = Request::read_head(&mut reader)? else { return Ok(None) };
        request.read_body(&mut reader, io::sink())?;
        Ok(Some(request))
    }

    #[test]
    fn a_body_of_known_length() -> Result<()> {
        let request = read("PUT /a/b?c HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabcd")?.context("request")?;
        assert_eq!((request.method.as_str(), request.path.as_str()), ("PUT", "/a/b?c"));
        assert_eq!(request.header("HOST"), Some("x"));
        assert_eq!(request.body, b"abc");
        Ok(())
    }

    #[test]
    fn a_body_in_chunks() -> Result<()> {
        let text =
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nt: v\r\n\r\n";
        assert_eq!(read(text)?.context("request")?.body, b"abc0123456789");
        Ok(())
    }

    #[test]
    fn what_is_cut_is_an_error_and_the_end_is_none() {
        assert!(matches!(read(""), Ok(None)));
        for text in ["GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n", "PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn calls_reach_a_server_in_their_namespace() -> Result<()> {
        let ns = Netns::new()?;
        let address = "127.0.0.1:5000".parse()?;
        let server = serve(&ns, address, |request| Response::new(200, "text/plain", request.body.clone()))?;
        let response = Request::signed("POST", "/", "s3", "hello").call(&ns, address)?;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        server.set_open(false)?;
        assert!(Request::signed("GET", "/", "s3", "").call(&ns, address).is_err());
        server.set_open(true)?;
        Request::signed("GET", "/", "s3", "").call(&ns, address)?;
        Ok(())
    }
}
