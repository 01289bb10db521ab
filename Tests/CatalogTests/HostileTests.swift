import Core
import Testing

@testable import Catalog

@Suite("Hostile manifests")
struct HostileTests {
  @Test func `a billion laughs are refused at once`() {
    var text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in 1...20 {
      text += "a\(level): &a\(level) [\((0..<10).map { _ in "*a\(level - 1)" }.joined(separator: ", "))]\n"
    }
    #expect(resolve(text).errors.map(\.code).contains("CATALOG-102"))
  }

  @Test func `a bomb as a key is refused at once`() {
    var text = "a0: &a0 [x, x]\n"
    for level in 1...40 { text += "a\(level): &a\(level) [*a\(level - 1), *a\(level - 1)]\n" }
    text += "? *a30\n: 1\n"
    #expect(!resolve(text).errors.isEmpty)
  }

  @Test(arguments: ["[", "{a: ", "- "])
  func `deep nesting is refused`(_ opener: String) {
    let text =
      opener == "- " ? String(repeating: "- ", count: 100_000) + "x" : String(repeating: opener, count: 100_000)
    // libyaml looks ahead over `[` and refuses on its own before the first event.
    let expected = opener == "[" ? ["CATALOG-101"] : ["CATALOG-102"]
    #expect(resolve(text).errors.map(\.code) == expected)
    let shallow =
      String(repeating: opener, count: 65) + "x"
      + (opener == "[" ? String(repeating: "]", count: 65) : opener == "- " ? "" : String(repeating: "}", count: 65))
    #expect(resolve(shallow.replacing("{a: x", with: "{a: 1")).errors.map(\.code) == ["CATALOG-102"])
  }

  @Test func `a file that is too large is refused unread`() {
    var reader = YAMLReader(String(repeating: "a", count: 2000), limits: YAMLLimits(fileBytes: 1000))
    #expect(reader.documents().isEmpty)
    #expect(reader.problems.map(\.kind) == [.limit])
  }

  @Test(arguments: [
    "\u{0}", "a: \u{0}", "\u{feff}", "a: \u{1b}[31m", "%YAML 9.9\n---\n", "*x", "&a *a", "!!binary x", "? ? ?", "\t",
    "--- >\n", "<<: 1", "<<: [{a: 1}, 2]",
  ])
  func `odd bytes end in a message`(_ text: String) {
    let resolution = resolve(text)
    #expect(resolution.catalog == nil && !resolution.errors.isEmpty)
    #expect(!"\(resolution.errors)".unicodeScalars.contains("\u{1b}"), "nothing for the terminal to obey")
  }

  @Test func `whatever is done to a catalog, it is read or refused, never more`() {
    let randomness = SeededRandomness(seed: 42)
    let original = Array(bank.utf8)
    let spice = Array("{}[]:,-&*!|>'\"%@`#? \n\t0~\\<\u{e9}".utf8)
    for _ in 0..<400 {
      var bytes = original
      for _ in 0...randomness.below(6) {
        let place = randomness.below(bytes.count)
        switch randomness.below(4) {
        case 0: bytes.remove(at: place)
        case 1: bytes.insert(spice[randomness.below(spice.count)], at: place)
        case 2: bytes[place] = UInt8(truncatingIfNeeded: randomness.next())
        default: bytes.removeSubrange(place..<min(bytes.count, place + randomness.below(80)))
        }
      }
      let resolution = resolve(String(decoding: bytes, as: UTF8.self))
      #expect((resolution.catalog == nil) != resolution.errors.isEmpty)
      #expect(resolution.diagnostics.allSatisfy { $0.line >= 0 && $0.column >= 0 })
    }
  }
}
