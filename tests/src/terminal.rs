//! A program on a terminal of its own, as a person has it in front of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::python::PYTHON;

/// Runs a program on a new terminal of 110 by 30 and plays a script: lines `see TEXT` waits until this is on the screen,
/// `type TEXT` presses keys, `signal NUMBER` sends one, and `run COMMAND` has a shell do something beside. Then the program
/// must end by itself, with the terminal as it was. Prints its exit code and whether the terminal's modes and its screen
/// were given back. After `hangup`, which takes the terminal away, only that it ended.
const PTY: &str = r#"
import codecs, os, pty, re, select, signal, struct, subprocess, sys, termios, fcntl, time
signal.alarm(60)
script = open(sys.argv[1]).read().splitlines()
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
before = termios.tcgetattr(slave)
def own():
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    signal.alarm(55)
program = subprocess.Popen(sys.argv[2:], stdin=slave, stdout=slave, stderr=slave, preexec_fn=own, close_fds=True)
decode = codecs.getincrementaldecoder("utf-8")().decode
output, left, lines, row, column = b"", "", [[" "] * 110 for _ in range(30)], 0, 0
def paint(text):
    """Only what moves or writes: a whole control sequence, or one character."""
    global left, lines, row, column
    left += text
    while match := re.match(r"\x1b\[([?0-9;]*)([@-~])|\x1b(?!\[)(.)|([^\x1b])", left, re.S):
        left = left[match.end():]
        numbers, final, _, character = match.groups()
        if final == "H":
            row, column = (int(number or 1) - 1 for number in (numbers + ";").split(";")[:2])
        elif final == "J":
            lines = [[" "] * 110 for _ in range(30)]
        elif character and character >= " " and row < 30 and column < 110:
            lines[row][column] = character
            column += 1
def more(wait):
    global output
    if select.select([master], [], [], wait)[0]:
        some = os.read(master, 65536)
        output += some
        paint(decode(some))
        return True
    return False
def fail(why):
    program.kill()
    screen = "\n".join("".join(line).rstrip() for line in lines)
    sys.exit(f"{why} on\n{screen}")
for line in script:
    what, _, text = line.partition(" ")
    if what == "see":
        deadline = time.monotonic() + 20
        while not any(text in "".join(line) for line in lines):
            if time.monotonic() > deadline or program.poll() is not None:
                fail(f"no {text!r}")
            more(0.05)
    elif what == "type":
        os.write(master, text.encode().decode("unicode_escape").encode())
    elif what == "signal":
        program.send_signal(int(text))
    elif what == "hangup":
        os.close(master)
        try:
            program.wait(20)
        except subprocess.TimeoutExpired:
            fail("it goes on without a terminal")
        print("ended")
        sys.exit()
    elif what == "run":
        subprocess.run(["sh", "-c", text], check=True)
deadline = time.monotonic() + 20
while program.poll() is None:
    more(0.05)
    if time.monotonic() > deadline:
        fail("it does not end")
while more(0):
    pass
after = termios.tcgetattr(slave)
screen = output.rfind(b"\x1b[?1049l") > output.rfind(b"\x1b[?1049h") >= 0
cursor = output.rfind(b"\x1b[?25h") > output.rfind(b"\x1b[?25l")
print(program.returncode, "modes" if before == after else "raw", "screen" if screen and cursor else "taken")
"#;

/// What [`PTY`] prints of a program that went as it should.
pub const RESTORED: &str = "0 modes screen";
/// The same, when the terminal was taken away.
pub const ENDED: &str = "ended";

pub fn play(script: &[&str], program: &Path, args: &[&str]) -> Result<String> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().join("script");
    std::fs::write(&path, script.join("\n"))?;
    let mut command = Command::new(PYTHON);
    command.args(["-c", PTY]).arg(&path).arg(program).args(args).env("TERM", "xterm-256color");
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
