import Catalog
import Core
import DriverKit
import IO

/// A release's directory: its manifest and its scripts.
struct ReleaseFiles: Sendable {
  struct Script: Sendable {
    /// Without `.sql`.
    var name: String
    /// Relative to the release's directory.
    var path: String
    var text: String
  }

  let directory: String
  let release: Release

  private static let scriptLimitBytes = 16 << 20
  private static let scriptLimit = 10_000

  /// Blocks.
  init(_ directory: String, for catalog: Catalog) throws {
    self.directory = directory
    let path = "\(directory)/release.yaml"
    guard Files.exists(path) else { throw CompatError.noRelease(path) }
    let text = String(decoding: try Files.read(path, limitBytes: 1 << 20), as: UTF8.self)
    release = try Release(SourceFile(path: path, text: text), for: catalog)
  }

  /// Those of one directory, in the order of their names; runs of digits as numbers, so that 10 comes after 9. Blocks.
  func scripts(in relative: String) throws -> [Script] {
    let place = "\(directory)/\(relative)"
    guard Files.isDirectory(place) else { throw CompatError.noScripts(place) }
    let names = try Files.names(in: place).map(\.lossyText).filter { $0.hasSuffix(".sql") && !$0.hasPrefix(".") }
    guard !names.isEmpty, names.count <= Self.scriptLimit else { throw CompatError.noScripts(place) }
    return try names.sorted { Self.isOrdered($0, $1) }.map { name in
      let bytes = try Files.read("\(place)/\(name)", limitBytes: Self.scriptLimitBytes)
      return Script(
        name: String(name.dropLast(4)), path: "\(relative)/\(name)", text: String(decoding: bytes, as: UTF8.self))
    }
  }

  /// Whether `name` is among those a store says are applied: in full, without `.sql`, or by the number it begins with.
  static func isApplied(_ name: String, _ applied: Set<String>) -> Bool {
    if applied.contains(name) || applied.contains(name + ".sql") { return true }
    let digits = name.prefix { $0.isASCII && $0.isNumber }
    guard let number = Int64(digits) else { return false }
    return applied.contains { Int64($0) == number }
  }

  static func isOrdered(_ a: String, _ b: String) -> Bool {
    let (x, y) = (parts(a), parts(b))
    for (left, right) in zip(x, y) where left != right {
      if let first = Int64(left), let second = Int64(right), first != second { return first < second }
      return left < right
    }
    return (x.count, a) < (y.count, b)
  }

  private static func parts(_ text: String) -> [String] {
    var result: [String] = []
    var wasDigit: Bool?
    for character in text {
      let isDigit = character.isASCII && character.isNumber
      if isDigit == wasDigit { result[result.count - 1].append(character) } else { result.append(String(character)) }
      wasDigit = isDigit
    }
    return result
  }
}
