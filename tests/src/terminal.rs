//! A program on a terminal of its own, as a person has it in front of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::python::PYTHON;

/// Runs a program on a new terminal of 110 by 30 and plays a script: lines `see TEXT` waits until this is on the screen,
/// `type TEXT` presses keys, `signal NUMBER` sends one, and `run COMMAND` has a shell do something beside. Then the program
/// must end by itself, with the terminal as it was. Prints its exit code and whether the terminal's modes and its screen
/// were given back.
const PTY: &str = r#"
import os, pty, select, signal, struct, subprocess, sys, termios, fcntl, time
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
output = b""
def more(wait):
    global output
    if select.select([master], [], [], wait)[0]:
        output += os.read(master, 65536)
        return True
    return False
def fail(why):
    program.kill()
    sys.exit(f"{why}; written so far: {output[-3000:]!r}")
at = 0
for line in script:
    what, _, text = line.partition(" ")
    if what == "see":
        deadline = time.monotonic() + 20
        while text.encode() not in output[at:]:
            if time.monotonic() > deadline or program.poll() is not None:
                fail(f"no {text!r}")
            more(0.05)
        at = output.index(text.encode(), at) + len(text)
    elif what == "type":
        os.write(master, text.encode().decode("unicode_escape").encode())
    elif what == "signal":
        program.send_signal(int(text))
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
