import Core
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Shows long work on standard error: one line that changes on a terminal, plain lines elsewhere.
///
/// Where there is no terminal, a line is printed at most every ten seconds and whenever the phase changes.
package final class ProgressLine: Sendable {
  private struct State {
    var lastShown: Int64 = .min
    var lastPhase = ""
    var isDrawn = false
  }

  private let style: Style
  private let time: any Timekeeper
  private let isQuiet: Bool
  private let write: @Sendable (String) -> Void
  private let state = Mutex(State())

  package init(
    style: Style, time: any Timekeeper, isQuiet: Bool = false,
    write: @escaping @Sendable (String) -> Void = { standardError($0) }
  ) {
    (self.style, self.time, self.isQuiet, self.write) = (style, time, isQuiet, write)
  }

  /// Shows `text` for `phase`, or drops it if something was shown just now.
  package func show(_ phase: String, _ text: String) {
    guard !isQuiet else { return }
    let now = time.monotonicNanoseconds()
    state.withLock { state in
      let interval: Int64 = style.width == nil ? 10_000_000_000 : 100_000_000
      guard phase != state.lastPhase || state.lastShown == .min || now - state.lastShown >= interval else { return }
      (state.lastShown, state.lastPhase) = (now, phase)
      let line = "\(phase)  \(text)"
      if let width = style.width {
        write("\r\u{1B}[K" + line.cut(to: max(10, width - 1)))
        state.isDrawn = true
      } else {
        write(line + "\n")
      }
    }
  }

  /// Prints a line that stays, above the one that changes.
  package func note(_ line: String) {
    guard !isQuiet else { return }
    state.withLock { state in
      if state.isDrawn { write("\r\u{1B}[K") }
      state.isDrawn = false
      write(line + "\n")
    }
  }

  /// Removes the changing line.
  package func clear() {
    state.withLock { state in
      if state.isDrawn { write("\r\u{1B}[K") }
      state.isDrawn = false
    }
  }
}

package func standardError(_ text: String) { writeAll(text, to: 2) }

package func standardOutput(_ text: String) { writeAll(text, to: 1) }

/// A reader that went away is not an error of ours: the rest is dropped.
private func writeAll(_ text: String, to descriptor: Int32) {
  let bytes = Array(text.utf8)
  var done = 0
  while done < bytes.count {
    let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, bytes.count - done) }
    if count < 0 {
      if errno == EINTR { continue }
      return
    }
    done += count
  }
}
