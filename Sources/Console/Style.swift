import Core

#if canImport(Glibc)
  import Glibc
#endif

/// What a terminal can show.
package struct Style: Sendable {
  package var usesColor: Bool
  /// Columns; `nil` where there is no terminal, and nothing is cut.
  package var width: Int?

  package init(usesColor: Bool, width: Int?) { (self.usesColor, self.width) = (usesColor, width) }

  package static let plain = Style(usesColor: false, width: nil)

  /// Asks the descriptor, and respects `NO_COLOR` (no-color.org) and `TERM=dumb`.
  package static func detect(_ descriptor: Int32, environment: [String: String]) -> Style {
    guard isatty(descriptor) == 1, environment["TERM"] != "dumb" else { return .plain }
    var size = winsize()
    let columns = ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    return Style(usesColor: (environment["NO_COLOR"] ?? "").isEmpty, width: columns)
  }

  package enum Tone: Sendable {
    case good, bad, warning, faint, strong, title
  }

  package func paint(_ text: String, _ tone: Tone) -> String {
    guard usesColor, !text.isEmpty else { return text }
    let code =
      switch tone {
      case .good: "32"
      case .bad: "31;1"
      case .warning: "33"
      case .faint: "2"
      case .strong: "1"
      case .title: "36;1"
      }
    return "\u{1B}[\(code)m\(text)\u{1B}[0m"
  }
}

extension String {
  /// Columns this takes on a terminal, escape sequences not counted; wide East Asian characters are counted as one.
  package var displayWidth: Int {
    var width = 0
    var inEscape = false
    for character in self {
      if inEscape {
        if character == "m" { inEscape = false }
      } else if character == "\u{1B}" {
        inEscape = true
      } else {
        width += 1
      }
    }
    return width
  }

  /// At most `width` columns of this; what is cut off leaves a `…`, and colours end with it.
  package func cut(to width: Int) -> String {
    guard displayWidth > width, width > 0 else { return self }
    var text = ""
    var shown = 0
    var inEscape = false
    for character in self {
      if inEscape || character == "\u{1B}" {
        inEscape = character != "m"
      } else if shown == width - 1 {
        break
      } else {
        shown += 1
      }
      text.append(character)
    }
    return text + "…" + (text.contains("\u{1B}") ? "\u{1B}[0m" : "")
  }

  /// What an outside name may show: control characters become `?`, so that no repository can write to the terminal.
  package var harmless: String {
    String(
      String.UnicodeScalarView(
        unicodeScalars.map { $0.value < 32 || (127..<160).contains($0.value) || $0.value == 0x202E ? "?" : $0 }))
  }
}
