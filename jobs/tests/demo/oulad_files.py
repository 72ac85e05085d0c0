"""A data set of OULAD's shape with a handful of rows, to be changed by a test."""

from __future__ import annotations

import gzip
from pathlib import Path

FILES = {
    "courses": "code_module,code_presentation,module_presentation_length\nAAA,2014B,240\nBBB,2014J,269\n",
    "assessments": (
        "code_module,code_presentation,id_assessment,assessment_type,date,weight\n"
        "AAA,2014B,1,TMA,19.0,30.0\nAAA,2014B,2,CMA,54,0\nAAA,2014B,3,Exam,?,100\nBBB,2014J,4,TMA,?,50\n"
    ),
    "vle": (
        "id_site,code_module,code_presentation,activity_type,week_from,week_to\n"
        "501,AAA,2014B,resource,?,?\n502,AAA,2014B,homepage,,\n503,AAA,2014B,oucontent,2,3\n601,BBB,2014J,ouwiki,?,?\n"
    ),
    "studentInfo": (
        "code_module,code_presentation,id_student,gender,region,highest_education,imd_band,age_band,"
        "num_of_prev_attempts,studied_credits,disability,final_result\n"
        "AAA,2014B,11,M,Wales,HE Qualification,?,0-35,0,60,N,Pass\n"
        'AAA,2014B,12,F,"Region, South",A Level or Equivalent,10-20,35-55,1,120,Y,Withdrawn\n'
        "BBB,2014J,12,F,Scotland,A Level or Equivalent,10-20,35-55,2,60,Y,Distinction\n"
    ),
    "studentRegistration": (
        "code_module,code_presentation,id_student,date_registration,date_unregistration\n"
        "AAA,2014B,11,-30,?\nAAA,2014B,12,?,-5\nBBB,2014J,12,-400.0,\n"
    ),
    "studentAssessment": (
        "id_assessment,id_student,date_submitted,is_banked,score\n"
        "1,11,18,0,78\n2,11,50,0,?\n3,11,238,0,55.5\n1,12,-1,1,90\n4,12,20,0,64\n"
    ),
    "studentVle": (
        "code_module,code_presentation,id_student,id_site,date,sum_click\n"
        "AAA,2014B,11,501,-10,4\nAAA,2014B,11,501,-10,4\nAAA,2014B,11,502,3,1\nBBB,2014J,12,601,100,17\n"
    ),
}


def write(folder: Path, changes: dict[str, str | None] | None = None, packed: tuple[str, ...] = ()) -> Path:
    """Write the files, some with other contents (None: not at all), some gzipped; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, text in {**FILES, **(changes or {})}.items():
        if text is None:
            continue
        if name in packed:
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder
