extension Duration {
  /// Whole nanoseconds, clamped to what 64 bits hold (292 years).
  package var wholeNanoseconds: Int64 {
    let (seconds, attoseconds) = components
    let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    guard !overflow else { return seconds < 0 ? .min : .max }
    let (sum, overflow2) = scaled.addingReportingOverflow(attoseconds / 1_000_000_000)
    return overflow2 ? (seconds < 0 ? .min : .max) : sum
  }

  package var seconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }

  package var milliseconds: Double { seconds * 1000 }

  /// Parses what a person writes: `250ms`, `30s`, `5m`, `1h30m`, `2d`, `1w`, `1.5h`. A bare number is refused.
  package init?(text: some StringProtocol) {
    var rest = Substring(text)
    guard !rest.isEmpty else { return nil }
    var total = Duration.zero
    while !rest.isEmpty {
      let number = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
      guard let value = Double(number), value.isFinite else { return nil }
      rest = rest.dropFirst(number.count)
      let unit = rest.prefix { $0.isASCII && $0.isLetter }
      rest = rest.dropFirst(unit.count)
      let seconds: Double
      switch unit {
      case "ns": seconds = 1e-9
      case "us": seconds = 1e-6
      case "ms": seconds = 1e-3
      case "s": seconds = 1
      case "m": seconds = 60
      case "h": seconds = 3600
      case "d": seconds = 86_400
      case "w": seconds = 604_800
      default: return nil
      }
      guard value * seconds < 9e9 else { return nil }
      total += .seconds(value * seconds)
    }
    self = total
  }

  /// The shortest text that says it well: `1.24 s`, `31 ms`, `2 min 5 s`, `3 h 20 min`.
  package var brief: String {
    let value = seconds
    if value < 0 { return "-" + (Duration.zero - self).brief }
    if value == 0 { return "0 s" }
    if value < 0.001 { return "\(Int((value * 1e6).rounded())) µs" }
    if value < 0.01 { return "\(tenths(value * 1000)) ms" }
    if value < 0.9995 { return "\(Int((value * 1000).rounded())) ms" }
    if value < 10 { return "\(hundredths(value)) s" }
    if value < 60 { return "\(tenths(value)) s" }
    let whole = Int(value.rounded())
    if whole < 3600 { return joined(whole / 60, "min", whole % 60, "s") }
    if whole < 86_400 { return joined(whole / 3600, "h", whole % 3600 / 60, "min") }
    return joined(whole / 86_400, "d", whole % 86_400 / 3600, "h")
  }
}

private func joined(_ a: Int, _ unitA: String, _ b: Int, _ unitB: String) -> String {
  b == 0 ? "\(a) \(unitA)" : "\(a) \(unitA) \(b) \(unitB)"
}

private func tenths(_ value: Double) -> String {
  let scaled = Int((value * 10).rounded())
  return "\(scaled / 10).\(scaled % 10)"
}

private func hundredths(_ value: Double) -> String {
  let scaled = Int((value * 100).rounded())
  let fraction = scaled % 100
  return "\(scaled / 100).\(fraction < 10 ? "0" : "")\(fraction)"
}
