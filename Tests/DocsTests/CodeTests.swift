import Foundation
import Testing

/// `docs/operating/errors.md` explains every code there is, and no other.
@Suite("Error codes")
struct CodeTests {
  struct Use: CustomStringConvertible {
    var code: String
    var place: String
    /// The literal text of the message, what is put in at run time left out; `nil` where the code is only compared.
    var message: String?

    var description: String { "\(place): \(message ?? "")" }
  }

  private func uses() throws -> [Use] {
    var uses: [Use] = []
    for path in try Pages.sources() {
      let text = try Pages.text(path)
      for match in text.matches(of: /(Report|PlanNote)\(\s*"([A-Z]+-[0-9]{3})",\s*("?)/) {
        let rest = match.3.isEmpty ? "" : String(text[match.range.upperBound...].prefix { $0 != "\n" })
        uses.append(Use(code: String(match.2), place: path, message: words(rest)))
      }
      // One letter alone is a rule's of the decisions, not an error's.
      for match in text.matches(of: /case \w+ = "([A-Z]{2,}-[0-9]{3})"/) {
        uses.append(Use(code: String(match.1), place: path, message: nil))
      }
    }
    return uses
  }

  /// A message's fixed words, up to its closing quote.
  private func words(_ rest: String) -> String {
    var (result, depth) = ("", 0)
    var characters = rest[...]
    while let character = characters.popFirst() {
      if depth == 0, character == "\\", characters.first == "(" {
        characters.removeFirst()
        depth = 1
        result += "…"
      } else if depth > 0 {
        depth += character == "(" ? 1 : character == ")" ? -1 : 0
      } else if character == "\"" {
        break
      } else {
        result.append(character)
      }
    }
    return result
  }

  /// Codes that the page explains: those at the start of a table's row.
  private func explained() throws -> [String] {
    try Pages.prose("docs/operating/errors.md").compactMap { line in
      (try? /^\| `?([A-Z]+-[0-9]{3})`? \|/.firstMatch(in: line)).flatMap { $0 }.map { String($0.1) }
    }
  }

  @Test func `every code is explained once, and none that doesn't exist`() throws {
    let explained = try explained()
    let used = Set(try uses().map(\.code))
    try #require(used.count > 150)
    #expect(Set(explained).count == explained.count, "explained twice: \(doubles(explained))")
    #expect(used.subtracting(explained).sorted() == [], "not on the page")
    #expect(Set(explained).subtracting(used).sorted() == [], "on the page, but nowhere in the sources")
  }

  @Test func `a code that some code compares with exists`() throws {
    let used = Set(try uses().map(\.code))
    for path in try Pages.sources() {
      for match in try Pages.text(path).matches(of: /code\)? [!=]= "([A-Z]+-[0-9]{3})"/) {
        #expect(used.contains(String(match.1)), "\(path) asks for \(match.1)")
      }
    }
  }

  /// Meant to be said in several places, each time for the same reason.
  private let shared: Set<String> = ["CORE-001", "DRIVER-602", "DRIVER-608", "DRIVER-611", "USAGE-301"]

  @Test func `no code has two meanings`() throws {
    for (code, uses) in Dictionary(grouping: try uses(), by: \.code) where uses.count > 1 {
      #expect(shared.contains(code), "\(code) is used \(uses.count) times: \(uses)")
    }
  }

  private func doubles(_ codes: [String]) -> [String] {
    Dictionary(grouping: codes, by: \.self).filter { $0.value.count > 1 }.keys.sorted()
  }
}
