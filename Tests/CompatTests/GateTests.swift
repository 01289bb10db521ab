import Core
import Foundation
import IO
import TestSupport
import Testing

/// Gates and metrics at restores, by the built program.
@Suite("Gates and metrics", .serialized, .timeLimit(.minutes(10))) struct GateTests {
  private static let gate =
    "schema: [{store: paper, query: \"SELECT user_version FROM pragma_user_version\", accepts: [\"0\"]}]"

  @Test func `a schema nobody works with is refused before anything is touched, and one nobody knew rolls back`()
    async throws
  {
    try await CompatSite.with(more: Self.gate) { site in
      try await site.salvor("backup").succeeded()
      let plain = try site.catalog()
      // Another release, that works with another schema only.
      try site.write(plain.replacing("accepts: [\"0\"]", with: "accepts: [\"7\", \"8\"]"))
      let before = try await site.live()
      let refused = try await site.salvor("restore", "shop", "--yes")
      #expect(refused.status == 6, "\(refused.status)")
      #expect(
        refused.errors.contains("COMPAT-201")
          && refused.errors.contains("shop works with schema version 7, 8 of paper, and it is 0"), "\(refused.errors)")
      #expect(try await site.live() == before)
      // Another question: the point has no answer to it, so it is asked once the store serves.
      try site.write(
        plain.replacing("accepts: [\"0\"]", with: "accepts: [\"7\"]").replacing(
          "SELECT user_version FROM pragma_user_version", with: "SELECT user_version + 0 FROM pragma_user_version"))
      try await site.sqlite("INSERT INTO sheets VALUES (9, 9, 'later')")
      let rolledBack = try await site.salvor("restore", "shop", "--yes")
      #expect(
        rolledBack.status == 4 && rolledBack.output.contains("schema-of-paper"),
        "\(rolledBack.output)\(rolledBack.errors)")
      #expect(try await site.sqlite("SELECT count(*) FROM sheets").contains("4"), "what was live is live again")
      try await site.salvor("run", "release", "latest", "--yes").succeeded()
    }
  }

  @Test func `a metric is told before, at the point and after, and one that is off rolls back`() async throws {
    try await CompatSite.with { site in
      let plain = try site.catalog()
      func metric(_ more: String) -> String {
        plain
          + "\n---\napiVersion: salvor.dev/v1\nkind: Metric\nmetadata: {name: takings}\nspec: {store: books, query: SELECT sum(total) FROM orders, unit: EUR, \(more)}\n"
      }
      try site.write(metric("change: 0%, least: 1"))
      try await site.salvor("backup").succeeded()
      try await site.server.sql("DELETE FROM orders WHERE id > 100")
      let restored = try await site.salvor("restore", "shop", "--yes")
      #expect(restored.status == 0, "\(restored.output)\(restored.errors)")
      #expect(
        restored.output.contains("takings  it is 20100 EUR; 20100 when the point was taken; 5050 before the restore"),
        "\(restored.output)")
      try await site.salvor("run", "release", "latest", "--yes").succeeded()
      try site.write(metric("most: 20000"))
      let off = try await site.salvor("restore", "shop", "--yes")
      #expect(off.status == 4 && off.output.contains("it is 20100, above 20000"), "\(off.output)\(off.errors)")
      try await site.salvor("run", "release", "latest", "--yes").succeeded()
    }
  }
}
