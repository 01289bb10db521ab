import Core

/// One file being read: where problems go.
struct Decoding: Sendable {
  let file: String
  /// The options each driver understands.
  let drivers: [DriverName: [OptionSchema]]
  private(set) var diagnostics: [Diagnostic] = []

  init(file: String, drivers: [DriverName: [OptionSchema]]) { (self.file, self.drivers) = (file, drivers) }

  mutating func report(_ code: DiagnosticCode, at mark: Mark, _ message: String, _ remedy: String?) {
    diagnostics.append(Diagnostic(code, file: file, mark: mark, message, remedy))
  }

  mutating func wrongType(_ node: YAMLNode, expected: String) {
    report(.wrongType, at: node.mark, "expected \(expected), found \(node.kind)", "write \(expected) here")
  }
}

/// What the operator wrote, cut short and made harmless for a terminal.
func excerpt(_ text: some StringProtocol) -> String {
  var result = ""
  for scalar in text.unicodeScalars.prefix(60) {
    let isHarmless = !(scalar.properties.generalCategory == .control || scalar.properties.generalCategory == .format)
    result.unicodeScalars.append(isHarmless ? scalar : "\u{fffd}")
  }
  return text.unicodeScalars.count > 60 ? result + "…" : result
}
