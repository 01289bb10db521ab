import Foundation
import Testing

/// `docs/capabilities.md` says of every capability where it stands, and never without a test.
@Suite("Capabilities")
struct CapabilityTests {
  /// How many capabilities each chapter has.
  private let chapters = [
    "A": 10, "B": 13, "C": 13, "D": 11, "E": 4, "F": 10, "G": 8, "H": 9, "I": 6, "J": 5, "K": 4,
  ]

  private struct Row {
    var number: String
    var state: String
    var command: String
    var tests: [String]
  }

  private func rows() throws -> [Row] {
    try Pages.prose("docs/capabilities.md").compactMap { line in
      let cells = line.split(separator: "|", omittingEmptySubsequences: false).map {
        $0.trimmingCharacters(in: .whitespaces)
      }
      guard cells.count == 7, cells[1].wholeMatch(of: /[A-Z][0-9]+/) != nil else { return nil }
      return Row(
        number: cells[1], state: cells[3], command: cells[4],
        tests: cells[5].matches(of: /\]\(\.\.\/([^)]+)\)/).map { String($0.1) })
    }
  }

  @Test func `every number is there once, in order`() throws {
    let expected = chapters.sorted { $0.key < $1.key }.flatMap { chapter in
      (1...chapter.value).map { "\(chapter.key)\($0)" }
    }
    #expect(try rows().map(\.number) == expected)
  }

  @Test func `what works at all names a command and tests that exist`() throws {
    for row in try rows() {
      switch row.state {
      case "not yet": #expect(row.tests.isEmpty && row.command.isEmpty, "\(row.number)")
      case let state where state == "**works**" || state.hasPrefix("**partly**: "):
        #expect(row.command.hasPrefix("`salvor ") || row.command.hasPrefix("`scripts/"), "\(row.number)")
        #expect(!row.tests.isEmpty, "\(row.number) names no test")
        for test in row.tests {
          let text = Pages.exists(test) ? try Pages.text(test) : ""
          #expect(text.contains("@Test"), "\(row.number): \(test)")
        }
      default: Issue.record("\(row.number): '\(row.state)' is no state")
      }
    }
  }

  @Test func `the sum is right`() throws {
    let rows = try rows()
    let works = rows.count { $0.state == "**works**" }
    let nothing = rows.count { $0.state == "not yet" }
    let sum = "Of \(rows.count): \(works) work, \(rows.count - works - nothing) partly, \(nothing) not yet."
    #expect(try Pages.text("docs/capabilities.md").contains(sum))
  }
}
