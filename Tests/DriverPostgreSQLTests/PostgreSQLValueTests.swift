import Core
import DriverContract
import DriverKit
import Testing

@testable import DriverPostgreSQL

@Suite("PostgreSQL's values") struct PostgreSQLValueTests {
  @Test func `positions print and parse as the server's`() {
    #expect(LogSequenceNumber("0/3000148")?.value == 0x300_0148)
    #expect(LogSequenceNumber("1A/0")?.description == "1A/0")
    for text in ["", "/", "0", "0/", "0/123456789", "g/1", "-1/0", "+1/0", "0/1/2", "0/ 1"] {
      #expect(LogSequenceNumber(text) == nil, "\(text)")
    }
  }

  @Test func `segments are named as the server names them`() throws {
    let small = try #require(LogGeometry(segmentBytes: 1 << 20))
    let usual = try #require(LogGeometry(segmentBytes: 16 << 20))
    #expect(small.fileName(timeline: 1, segment: 4097) == "000000010000000100000001")
    #expect(usual.fileName(timeline: 10, segment: 257) == "0000000A0000000100000001")
    #expect(LogGeometry(segmentBytes: 0) == nil && LogGeometry(segmentBytes: 3 << 20) == nil)
  }

  /// Between a page's start and the end of its header is no record.
  @Test func `the end of a page and the first record of the next are one point`() throws {
    let geometry = try #require(LogGeometry(segmentBytes: 1 << 20))
    for (given, expected) in [
      (0x10_0028, 0x10_0000), (0x10_0029, 0x10_0029), (0x10_2018, 0x10_2000), (0x10_2019, 0x10_2019),
    ] {
      #expect(geometry.normalised(LogSequenceNumber(UInt64(given))).value == UInt64(expected))
    }
  }

  @Test func `file names of relations`() throws {
    let plain = try #require(RelationFileName("16384"))
    #expect((plain.number, plain.fork, plain.segment) == (16384, "", 0))
    let rich = try #require(RelationFileName("16384_vm.12"))
    #expect((rich.number, rich.fork, rich.segment) == (16384, "vm", 12))
    for name in [
      "pg_filenode.map", "PG_VERSION", "t3_16384", "16384_xy", "16384.", "16384.1.2", "_vm", "99999999999", "",
    ] {
      #expect(RelationFileName(name) == nil, "\(name)")
    }
  }

  @Test func `pages are judged`() {
    var page = [UInt8](repeating: 0, count: DataPage.bytes)
    func verdict(_ block: UInt32) -> DataPage.Verdict {
      page.withUnsafeBytes { DataPage.verdict(of: $0, block: block) }
    }
    #expect(verdict(0) == .new)
    page[5000] = 1
    #expect(verdict(0) == .damaged, "no header, yet something in it")
    page[14] = 64
    let sum = page.withUnsafeBytes { DataPage.checksum(of: $0, block: 7) }
    (page[8], page[9]) = (UInt8(sum & 255), UInt8(sum >> 8))
    #expect(verdict(7) == .sound)
    #expect(verdict(8) == .damaged, "a sound page in another place")
    page[8191] ^= 1
    #expect(verdict(7) == .damaged)
  }

  @Test func `facts from a hostile snapshot are refused`() throws {
    let good = RestoreFacts(
      start: "0/1", stop: "0/2", mark: "0/3", timeline: 1, systemIdentifier: "7", segmentBytes: 1 << 20, major: 15,
      tablespaceVersion: "PG_15_1", tablespaces: [.init(oid: 5, location: "/mnt/a")], dataDirectory: "/d",
      hasChecksums: true, preloaded: "",
      coverage: DigestCoverage(horizons: ["a.b": 1 << 33], lacking: ["a.b.public.c d"]))
    #expect(try RestoreFacts(good.encoded) == good)
    for (name, value) in [
      ("markLSN", "x"), ("timeline", "-1"), ("walSegmentBytes", "5"), ("tablespaceVersion", "../../etc"), ("major", ""),
      ("tablespace.5", "relative"), ("tablespace.5", "/a/../../etc"), ("tablespace.5", "/a\nb"), ("tablespace.x", "/a"),
      ("digestHorizon.a", "-1"),
    ] {
      var facts = good.encoded
      facts[name] = value
      #expect(throws: DriverError.self, "\(name) = \(value)") { try RestoreFacts(facts) }
    }
    for name in ["markLSN", "major", "checksums"] {
      var facts = good.encoded
      facts[name] = nil
      #expect(throws: DriverError.self, "no \(name)") { try RestoreFacts(facts) }
    }
  }

  @Test func `bad options are refused by name`() throws {
    let bad: [[String: JSONValue]] = [
      [:], ["dataDirectory": "relative"], ["dataDirectory": "/"], ["dataDirectory": "/d", "port": 70_000],
      ["dataDirectory": "/d", "password": "plain"], ["dataDirectory": "/d", "startTimeout": "soon"],
    ]
    for options in bad {
      #expect(throws: DriverError.self, "\(options)") {
        try PostgreSQLDriverFactory.make(StoreConfiguration(name: "s", options: options), in: .live)
      }
    }
  }
}

@Suite struct RefusalTests {
  @Test func `a busy server's timeout is no refusal`() {
    #expect(refusesUs("FATAL:  password authentication failed for user \"salvor\""))
    #expect(refusesUs("FATAL:  no pg_hba.conf entry for host"))
    #expect(!refusesUs("FATAL:  canceling authentication due to timeout"))
    #expect(!refusesUs("could not connect to server: Connection refused"))
  }
}
