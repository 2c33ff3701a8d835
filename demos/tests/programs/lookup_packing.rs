//! Addresses in binary: `lookup` packs, unpacks and refuses the same as CPython.

use crate::demos::lookup::{answer, complaint};
use crate::harness::{Test, tests};
use crate::lookup::{pairs, python};

pub(crate) const TESTS: &[Test] = tests![
    an_address_is_packed_as_python_packs_it_or_refused: ["python3"],
    an_address_is_unpacked_as_python_unpacks_it_or_refused: ["python3"],
];

fn an_address_is_packed_as_python_packs_it_or_refused() {
    const SCRIPT: &str = "
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    try: row(ascii(address), socket.inet_pton(family, address).hex())
    except OSError: row(ascii(address), 'refused')
";
    const ADDRESSES: &str = "\
        0.0.0.0|255.255.255.255|1.2.3.4|192.0.2.1|::|::1|1::|1::8|fe80::1|FE80::ABCD|\
        1:2:3:4:5:6:7:8|1:2:3:4:5:6:7::|::2:3:4:5:6:7:8|0001::0abc|::ffff:192.0.2.1|::192.0.2.1|\
        1:2:3:4:5:6:192.0.2.1|64:ff9b::192.0.2.33|2001:db8:0:0:1:0:0:1|1::2:3:192.0.2.1";
    const NO_ADDRESSES: &str = "\
        | |1.2.3|127.1|1.2.3.4.5|1.2.3.256|1.2.3.04|01.2.3.4|0x7f.0.0.1|2130706433|1.2.3.4 |\
        \x201.2.3.4|1.2.3.-4|1.2.3.+4|1..2.3|1.2.3.|.1.2.3|localhost|:|:::|1::2::3|\
        1:2:3:4:5:6:7|1:2:3:4:5:6:7:8:9|1:2:3:4:5:6:7:8::|::1:2:3:4:5:6:7:8|00001::|12345::|::g|\
        ::1%lo|[::1]|::1/128|1.2.3.4/32|::1.2.3|::1.2.3.256|::192.0.2.1:1|1:2:3:4:5:6:7:1.2.3.4|\
        :1::2|1::2:|\u{661}.2.3.4";
    let addresses: Vec<&str> = ADDRESSES.split('|').chain(NO_ADDRESSES.split('|')).collect();
    let rows = python(SCRIPT, &addresses);
    assert_eq!(rows.len(), addresses.len());
    for (address, (shown, expected)) in addresses.iter().zip(pairs(&rows)) {
        match expected {
            "refused" => drop(complaint(&["pack", address], 2)),
            _ => assert_eq!(answer(&["pack", address]), expected, "{shown}"),
        }
    }
}

fn an_address_is_unpacked_as_python_unpacks_it_or_refused() {
    const SCRIPT: &str = "
for packed in map(bytes.fromhex, sys.argv[1:]):
    family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
    row(packed.hex(), socket.inet_ntop(family, packed))
";
    let mut random = fastrand::Rng::with_seed(7);
    let mut packed: Vec<String> =
        ["00000000", "ffffffff", "7f000001", "c0000201"].map(str::to_owned).to_vec();
    packed.extend((0..8).map(|_| format!("{:08x}", random.u32(..))));
    // Many groups are zero, so that runs of them are shortened. The first is not: `inet_ntop` has
    // another form for addresses that begin with six zero groups.
    packed.extend((0..24).map(|_| {
        let groups =
            (0..7).map(|_| if random.bool() { 0 } else { random.u16(..) >> random.u8(..16) });
        let groups: String = groups.map(|group| format!("{group:04x}")).collect();
        format!("2001{groups}")
    }));
    for special in [0, 1, 0xffff_c000_0201_u64] {
        packed.push(format!("{special:032x}"));
    }
    let packed: Vec<&str> = packed.iter().map(String::as_str).collect();
    let rows = python(SCRIPT, &packed);
    assert_eq!(rows.len(), packed.len());
    for (hex, address) in pairs(&rows) {
        assert_eq!(answer(&["unpack", hex]), address);
        assert_eq!(answer(&["pack", address]), hex);
    }
}
