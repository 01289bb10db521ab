import Foundation
import Testing

@testable import Runbooks

/// The chapter without Salvor types what `ExitDoorTests` runs.
@Suite("By hand")
struct ExitDoorPageTests {
  private static let page: String = {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    return (try? String(contentsOf: root.appending(path: "docs/exit-door.md"), encoding: .utf8)) ?? ""
  }()

  private func block(_ name: String) throws -> [String] {
    let parts = Self.page.components(separatedBy: "<!-- exit-door: \(name) -->\n```sh\n")
    let body = try #require(parts.dropFirst().first?.components(separatedBy: "\n```")[0])
    return body.split(separator: "\n").map(String.init)
  }

  @Test(arguments: ManualRecipe.drivers)
  func `each store is brought back word by word as on the page`(_ driver: String) throws {
    var lines = try block(driver)
    if driver == "mariadb" { lines += try block("mariadb-stop") }
    #expect(ManualRecipe.of(driver)?.lines == lines)
  }
}
