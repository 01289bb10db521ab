import DriverKit
import Testing

@testable import DriverPostgreSQL

@Suite("A dump's table of contents") struct DumpContentsTests {
  private static let listing = """
    ;
    ; Archive created at 2026-11-22 23:54:21 UTC
    ;     dbname: shop
    ;
    ; Selected TOC Entries:
    ;
    3407; 0 0 ENCODING - ENCODING\u{20}
    6; 2615 100 SCHEMA - s postgres
    7; 2615 101 SCHEMA - s s postgres
    10; 1259 200 TABLE DATA x postgres
    ;\tdepends on: 6
    11; 1259 201 TABLE s s orders postgres
    ;\tdepends on: 7 30
    12; 0 0 COMMENT s TABLE "s s".orders; 1259 200 postgres
    ;\tdepends on: 11
    13; 0 0 ACL s TABLE x postgres
    ;\tdepends on: 10 11
    20; 0 200 TABLE DATA DATA x postgres
    ;\tdepends on: 10
    21; 0 201 TABLE DATA s s orders postgres
    ;\tdepends on: 11
    22; 2606 300 FK CONSTRAINT s s orders orders_x_fkey postgres
    ;\tdepends on: 10 11
    23; 1259 400 VIEW s v postgres
    ;\tdepends on: 11
    30; 1247 500 TYPE s state postgres
    ;\tdepends on: 6

    """

  /// As the catalogs say it.
  private static let orders = #"""
    {"schema": "s s", "name": "orders", "sql": "\"s s\".orders", "id": "201", "schemaID": "101", "members": ["1259:201", "2606:300"],
      "links": [{"member": "2606:300", "target": "\"DATA\".x"}], "parent": null, "roles": [], "extensions": []}
    """#

  @Test(
    arguments: [
      // A database that has everything it needs, and the table it points to.
      (true, false, [], [11, 12, 21, 22]), (false, false, [], [11, 12, 21]),
      // Its own schema, not the one whose name begins like it.
      (false, false, ["s s"], [7, 11, 12, 21]), (false, false, ["s"], [11, 12, 21]),
      // A type comes along into a new one; its schema isn't the table's, and comes all the same.
      (false, true, ["s s"], [6, 7, 11, 12, 21, 30]),
    ] as [(Bool, Bool, Set<String>, [Int])])
  func `entries are chosen by numbers`(
    _ hasTarget: Bool, _ makesDatabase: Bool, _ missing: Set<String>, _ expected: [Int]
  ) throws {
    let contents = try DumpContents(Self.listing)
    let chosen = try contents.choose(
      DumpCatalog.decode([[Self.orders]]), isPresent: { _ in hasTarget }, makesDatabase: makesDatabase,
      missingSchemas: missing)
    #expect(chosen.sorted() == expected)
    #expect(contents.files(of: chosen).contains("21.dat") && !contents.files(of: chosen).contains("20.dat"))
    let left = contents.left(of: chosen)
    #expect(left.contains("VIEW s v postgres"))
    #expect(left.contains { $0.hasPrefix("FK CONSTRAINT") } == !hasTarget)
  }

  @Test(arguments: ["", ";\n", "no listing\n", "1; x 2 TABLE\n", "1; 99999999999 2 TABLE\n", "1 2 3 4\n"])
  func `what is no listing is refused`(_ text: String) {
    #expect(throws: DumpError.self) { _ = try DumpContents(text) }
  }
}
