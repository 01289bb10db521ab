import Core
import Foundation
import Testing

@testable import Catalog

/// The pages under `docs/reference` are made from the decoder's tables. When a test here says that one is stale, run
/// `RENEW_REFERENCE=1 swift test --filter ReferenceTests` and look at the difference.
@Suite("The catalog's reference")
struct ReferenceTests {
  private func check(_ name: String, _ text: String) throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let file = root.appending(path: "docs/reference/\(name)")
    if ProcessInfo.processInfo.environment["RENEW_REFERENCE"] != nil {
      try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data(text.utf8).write(to: file)
    }
    let found = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
    #expect(found == text, "docs/reference/\(name) is stale; renew it with RENEW_REFERENCE=1")
  }

  @Test func `the page says what the decoder does`() throws { try check("catalog.md", CatalogReference.text()) }

  @Test func `the schema says what the decoder does`() throws { try check("catalog.schema.json", CatalogSchema.text()) }

  @Test func `every link inside the page leads somewhere`() {
    let text = CatalogReference.text()
    let headings = Set(
      text.split(separator: "\n").filter { $0.hasPrefix("#") }.map { $0.drop { $0 == "#" || $0 == " " }.lowercased() })
    for match in text.matches(of: /\]\(#([a-z]+)\)/) { #expect(headings.contains(String(match.1)), "#\(match.1)") }
  }

  @Test func `the schema with drivers completes their options and refuses others`() {
    let schema = CatalogSchema.value(drivers: drivers)
    let store = schema["$defs"]?["Store"]
    #expect(store?["properties"]?["files"]?["required"]?.array == ["path"])
    #expect(store?["additionalProperties"]?.bool == false)
  }
}
